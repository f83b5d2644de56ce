# mypy: allow-untyped-defs, disable-error-code="untyped-decorator"
"""Logarithms of a map that LLVM vectorises; the C library's are calls.

They are taken in float64 and rounded once, so that those of float32 and of the halves are the correctly rounded ones
but where that is a matter of the float64's last place.
"""

from typing import Final

import numpy as np

from alignd_kernels.compile_cache import part
from alignd_kernels.numba_helpers import array_at, widen
from alignd_kernels.vector_math import log1p, normalised

LN_2_HIGH: Final = 0.6931471805582987
"""ln 2 rounded to 36 bits behind the point, so that it times an exponent is exact."""

LN_2_LOW: Final = 1.6465949582897082e-12
"""What is missing."""

LEAST_NORMAL: Final = 2.2250738585072014e-308
SCALE: Final = 54.0
"""Subnormal numbers are normal when they are 2 to this power as large."""

SQRT_2: Final = 1.4142135623730951


@part(inline=True)
def log(x):
    """Logarithm of a float64: −inf of 0, NaN of a negative or of NaN. +inf is not looked for. Error: 2 ulp."""
    small = x < LEAST_NORMAL
    m, exponent = normalised(x * 2.0**SCALE if small else x)
    exponent = exponent - SCALE if small else exponent
    # From √½ to √2, so that near 1 nothing cancels.
    above = m > SQRT_2
    m = m * 0.5 if above else m
    exponent = exponent + 1.0 if above else exponent
    found = exponent * LN_2_HIGH + (exponent * LN_2_LOW + log1p(m - 1.0))
    found = -np.inf if x == 0.0 else found
    return found if x >= 0.0 else np.nan


@part
def take_logarithms(address, pitch, S, T, model, logarithms):
    """Logarithms of a map, row by row.

    Args:
        address: of cell (0, 0).
        pitch: elements from a token's row to the next.
        model: empty array of the values' type.
        logarithms: of the accumulator's type, [S · T], filled.

    Returns:
        whether a value is negative, whose logarithm is NaN.
    """
    negative = False
    for s in range(S):
        cells = array_at(address + s * pitch * model.itemsize, T, model)
        row = logarithms[s * T : s * T + T]
        for t in range(T):
            value = np.float64(widen(cells[t]))
            negative |= bool(value < 0.0)
            row[t] = log(value)
    return negative
