"""One file per family: what the engine needs to know of it."""

from alignd_server.operations.ctc import CtcOperation
from alignd_server.operations.mas import MasOperation

__all__ = ["CtcOperation", "MasOperation"]
