# mypy: allow-untyped-defs, disable-error-code="untyped-decorator"
"""Sums of probabilities kept as m · 2ᵉ, m in [1, 2) and e integral, both of the accumulator's type.

Over a lattice probabilities span thousands of powers of e, and sums of their logarithms lose as many digits as the
logarithms are large. Kept like this, products and sums are a few ordinary operations, none transcendental, whose
relative error is an ulp or two at any magnitude, so that errors only grow by the number of steps. 0 is 2^−∞. Exponents
are exact up to `EXACT` in magnitude.
"""

from typing import Final

from alignd_kernels.compile_cache import part
from alignd_kernels.vector_math import normalised, power_of_two

EXACT: Final = 2.0**24


@part
def added(a, x, b, y):
    """a · 2ˣ + b · 2ʸ as (m, e), for positive a and b near 1."""
    top = x if x > y else y
    m, more = normalised(a * power_of_two(x - top) + b * power_of_two(y - top))
    return m, top + more
