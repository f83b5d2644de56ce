"""The contract of alignd: `alignd.v1` holds the generated messages and stubs, `alignd.wire` the codec over them."""

__version__ = "0.1.0"
