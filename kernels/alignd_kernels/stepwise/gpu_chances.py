# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
"""The logistic function and its complement on a GPU, each to full precision.

Errors, in ulp of 1 (2⁻²³, or 2⁻⁵² for float64): z = exp(−|x|) is off by at most 3, relative (2 of the exponential
itself, ½ of its argument, which is reduced to ±0.35 before); 1 / (1 + z) by 1½ of that, ½ of the sum and 2 of the
division, together 4; z / (1 + z) by 3, ½, 2 and ½ of the product, together 6. Smaller ones than the type's smallest
normal number are 0: |x| beyond 87, or 708 for float64.
"""

import triton
import triton.language as tl

from alignd_kernels.gpu_scaled import LN2_HIGH, LN2_LOW, LOG2E, power

CERTAIN = tl.constexpr(-2000.0)
"""Less than the logarithm of any number above 0."""


@triton.jit
def chances(x, ACC: tl.constexpr):
    """σ(x) and σ(−x); NaN for NaN."""
    held = tl.maximum(0.0 - tl.abs(x), CERTAIN)
    k = tl.floor(held * LOG2E + 0.5)
    z = tl.exp((held - k * LN2_HIGH) - k * LN2_LOW) * power(k.to(tl.int32), ACC)
    z = tl.where(x == x, z, x)
    likelier = 1.0 / (1.0 + z)
    other = likelier * z
    return tl.where(x > 0, likelier, other), tl.where(x > 0, other, likelier)
