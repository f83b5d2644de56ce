# mypy: allow-untyped-defs
# mypy: disable-error-code="untyped-decorator"
"""Probabilities as m · 2ᵉ: a floating-point m in [1, 2) and an integer e beside it.

Over a lattice probabilities span thousands of powers of e, and sums of their logarithms lose as many digits as the
logarithms are large. Kept like this, products and sums are a few ordinary operations, none transcendental, whose
relative error is an ulp or two at any magnitude, so that errors only grow by the number of steps. float32 goes with
int32, float64 with int64.

Nothing here is 0: what cannot be is 2^`NOTHING`, and what is that small is never told apart from it.
"""

import math
from typing import Any, Final

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

NOTHING: Final = -(1 << 29)
"""Exponent of an impossible arc. Sums of three such do not leave int32."""

LARGEST: Final = 8192.0
"""Logarithms up to this, of either sign, are turned into such numbers with full precision."""

TERMS_SINGLE: Final = tuple(np.float32(1 / math.factorial(k)) for k in range(8))
TERMS_DOUBLE: Final = tuple(1 / math.factorial(k) for k in range(14))
LOG2E: Final = 1 / math.log(2)

# ln 2 in two parts: products of the first, of few bits, with an exponent up to LARGEST · LOG2E are exact.
LN2_HIGH: Final = 355 / 512
LN2_LOW: Final = -2.1219444005469057e-4
LN2_LONG_HIGH: Final = float.fromhex("0x1.62e42fefap-1")
LN2_LONG_LOW: Final = 1.6465949582897082e-12


@intrinsic
def bits_of(typing_context: Any, value: Any) -> Any:
    """The bits of a float32 as int32, of a float64 as int64."""
    wide = value == types.float64

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.IntType(64 if wide else 32))

    return (types.int64 if wide else types.int32)(value), generate


@intrinsic
def float_of(typing_context: Any, bits: Any) -> Any:
    """The float32 of the bits in an int32, the float64 of those in an int64."""
    wide = bits == types.int64

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.DoubleType() if wide else ir.FloatType())

    return (types.float64 if wide else types.float32)(bits), generate


@intrinsic
def distinct(typing_context: Any) -> Any:
    """Promises that no array argument of the function that calls this is written to through another one.

    Otherwise a loop over many arrays is not compiled to vectors: it would have to compare too many addresses first.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        for argument in builder.function.args[2:]:  # after the places of the result and of an exception
            if isinstance(argument.type, ir.PointerType) and argument.type != ir.IntType(8).as_pointer():
                argument.add_attribute("noalias")
        return context.get_dummy_value()

    return types.void(), generate


def exponent_like(e: Any, m: Any) -> Any:
    """An integer as an exponent beside `m`: int32 for float32, int64 for float64."""
    raise NotImplementedError("compiled by Numba only")


def power(d: Any) -> Any:
    """2ᵈ for d up to 126 of an exponent's type; 0 where it is so small that it adds nothing."""
    raise NotImplementedError("compiled by Numba only")


def exp_parts(x: Any) -> Any:
    """(m, e) with m · 2ᵉ = exp(x) for |x| ≤ `LARGEST`; m about √½ to √2, at most 6 · 2⁻²⁴ (float64: 6 · 2⁻⁵³) off
    relative, a third of that for |x| ≤ 300."""
    raise NotImplementedError("compiled by Numba only")


def added(a: Any, x: Any, b: Any, y: Any) -> Any:
    """a · 2ˣ + b · 2ʸ as (m, e), m in [1, 2), for a and b in [¼, 8)."""
    raise NotImplementedError("compiled by Numba only")


@overload(exponent_like)
def _exponent_like(e, m):
    kind = np.int64 if m == types.float64 else np.int32
    return lambda e, m: kind(e)


@overload(power)
def _power(d):
    wide = d == types.int64
    # Far above the least normal number: what is multiplied by it stays normal too.
    integer, fraction, bias, least = (np.int64, 52, 1023, -900) if wide else (np.int32, 23, 127, -90)
    nothing = np.float64(0) if wide else np.float32(0)

    def shifted(d):
        return float_of(integer(integer(d + bias) << fraction)) if d > least else nothing

    return shifted


@overload(exp_parts)
def _exp_parts(x):
    if x == types.float64:
        half, low, high, ln2_high, c = 1.5 * 2.0**52, LN2_LONG_LOW, LOG2E, LN2_LONG_HIGH, TERMS_DOUBLE

        def double(x):
            # Adding `half` rounds to an integer, which is then in the lowest bits.
            rounded = x * high + half
            k = rounded - half
            r = (x - k * ln2_high) - k * low
            p = c[9] + r * (c[10] + r * (c[11] + r * (c[12] + r * c[13])))
            p = c[4] + r * (c[5] + r * (c[6] + r * (c[7] + r * (c[8] + r * p))))
            return c[0] + r * (c[1] + r * (c[2] + r * (c[3] + r * p))), bits_of(rounded) - bits_of(half)

        return double
    magic, low_part, factor, high_part = (np.float32(value) for value in (1.5 * 2.0**23, LN2_LOW, LOG2E, LN2_HIGH))
    d = TERMS_SINGLE

    def single(x):
        rounded = x * factor + magic
        k = rounded - magic
        r = (x - k * high_part) - k * low_part
        p = d[3] + r * (d[4] + r * (d[5] + r * (d[6] + r * d[7])))
        return d[0] + r * (d[1] + r * (d[2] + r * p)), np.int32(bits_of(rounded) - bits_of(magic))

    return single


@overload(added)
def _added(a, x, b, y):
    wide = a == types.float64
    integer, fraction, bias = (np.int64, 52, 1023) if wide else (np.int32, 23, 127)
    nothing = integer(NOTHING)

    def add(a, x, b, y):
        top = x if x > y else y
        top = top if top > nothing else nothing
        m = a * power(integer(x - top)) + b * power(integer(y - top))
        more = integer(integer(bits_of(m) >> fraction) - bias)
        return float_of(integer(bits_of(m) - integer(more << fraction))), integer(top + more)

    return add
