# mypy: allow-untyped-defs, disable-error-code="untyped-decorator"
"""Exponentials and logarithms that LLVM vectorises, for loops of the CPU kernels; the C library's are calls.

Each is plain arithmetic on float32 or float64 without branches. Errors, stated in units in the last place of the result
and tested: `exp` and `exp_of_negative` 1.5, `log1p` 2.5, in either type.

Sums over paths leave every type's range within a few frames. `exp_parts` and `power_of_two` are for kernels that keep
a number as a mantissa and an exponent, m · 2^e, both of the accumulator's type: products add exponents, which is exact,
so that an error does not grow with the number's logarithm, and no logarithm is taken in a lattice.
"""

from typing import Any, Final

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

# Polynomials by truncated Chebyshev series: (exp(r) - 1 - r) / r² on |r| ≤ ln 2 / 2, and (atanh(s) / s - 1) · 2 / s² of
# s² ≤ 1 / 9. Their own errors are below a tenth of an ulp.
_EXP: Final = {
    types.float32: (0.5000000014291086, 0.16666573358081635, 0.041666456777923716, 0.00836377646663079,
                    0.0013934544520014505),
    types.float64: (0.5000000000000001, 0.1666666666666667, 0.041666666666620625, 0.00833333333332552,
                    0.0013888888918942507, 0.00019841269876982358, 2.480151863778656e-05, 2.7557252676725416e-06,
                    2.7621339987032885e-07, 2.510633662765112e-08),
}  # fmt: skip
_LOG: Final = {
    types.float32: (0.6666666734116997, 0.3999970007664917, 0.2859265248072088, 0.21702155274955423,
                    0.23245011898269544),
    types.float64: (0.6666666666666666, 0.399999999999995, 0.2857142857160619, 0.22222222197467725, 0.18181819946108443,
                    0.15384542263422973, 0.13335214870529802, 0.11733804216043209, 0.10848923575838183,
                    0.07475835983052473, 0.15660691621489226),
}  # fmt: skip


class _Kind:
    """Constants of one floating-point type."""

    def __init__(self, kind: Any, word: Any, fraction: int, bias: int, high_bits: int) -> None:
        self.kind, self.word, self.fraction, self.bias = kind, word, fraction, bias
        # ln 2 in two parts, of which the first times an exponent of up to 15 (17) bits is exact.
        self.high = kind(np.rint(np.log(2.0) * 2.0**high_bits) / 2.0**high_bits)
        self.low = kind(_LN_2_LOW[kind])
        self.magic = kind(1.5 * 2.0**fraction + bias)
        self.least, self.most = kind((1 - bias) * np.log(2.0)), kind(np.log(np.finfo(kind).max))


_LN_2_LOW: Final = {
    # ln 2 less itself rounded to 9 and to 36 bits behind the point
    np.float32: -0.00021219444005469057,
    np.float64: 1.6465949582897082e-12,
}
_KINDS: Final = {
    types.float32: _Kind(np.float32, np.uint32, 23, 127, 9),
    types.float64: _Kind(np.float64, np.uint64, 52, 1023, 36),
}


@intrinsic
def _bits_of(typing_context: Any, value: Any) -> Any:
    """The bits of a float, as an unsigned integer of its size."""
    wide = value == types.float64

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.IntType(64 if wide else 32))

    return (types.uint64 if wide else types.uint32)(value), generate


@intrinsic
def _of_bits(typing_context: Any, bits: Any) -> Any:
    """The float of the given bits, uint32 or uint64."""
    wide = bits == types.uint64

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.DoubleType() if wide else ir.FloatType())

    return (types.float64 if wide else types.float32)(bits), generate


def exp_parts(x: Any) -> Any:
    """(f, n) with exp(x) = f · 2^n, f from 0.7 to 1.42 and n integral, of the type of x, for any finite x.

    -inf gives n = −inf and a finite f; +inf and NaN give an n of the same kind. Error of f: 1.5 ulp of 1.
    """
    raise NotImplementedError("compiled by Numba only")


@overload(exp_parts)
def _exp_parts(x):
    c, kind = _KINDS[x], _KINDS[x].kind
    log2e, high, low = kind(1.4426950408889634), c.high, c.low
    edge, one = kind(0.3467), kind(1.0)
    p = tuple(kind(a) for a in _EXP[x])
    if len(p) == 5:
        p0, p1, p2, p3, p4 = p

        def single(x):
            n = np.rint(x * log2e)
            r = (x - n * high) - n * low
            # Where the spacing of x is above 1, r is rounding alone; where n is infinite, it is NaN.
            r = r if r > -edge else -edge
            r = r if r < edge else edge
            tail = (((p4 * r + p3) * r + p2) * r + p1) * r + p0
            return one + (r + r * r * tail), n

        return single
    p0, p1, p2, p3, p4, p5, p6, p7, p8, p9 = p

    def double(x):
        n = np.rint(x * log2e)
        r = (x - n * high) - n * low
        r = r if r > -edge else -edge
        r = r if r < edge else edge
        tail = ((((((((p9 * r + p8) * r + p7) * r + p6) * r + p5) * r + p4) * r + p3) * r + p2) * r + p1) * r + p0
        return one + (r + r * r * tail), n

    return double


def power_of_two(d: Any) -> Any:
    """2^d for an integral d ≤ 0 of either type: 0 below −100 (float32) or −1,000 (float64), and for NaN.

    So no product of it and a mantissa near 1 is subnormal, which processors are slow to compute.
    """
    raise NotImplementedError("compiled by Numba only")


@overload(power_of_two)
def _power_of_two(d):
    c = _KINDS[d]
    least, zero, magic = c.kind(-100.0 if c.bias == 127 else -1000.0), c.kind(-c.bias), c.magic
    word, fraction = c.word, c.word(c.fraction)

    def implementation(d):
        held = d if d > least else zero
        # The sum's last bits are d + bias: what an exponent is in memory, once they have been shifted there.
        return _of_bits(word(_bits_of(held + magic) << fraction))

    return implementation


def normalised(m: Any) -> Any:
    """(f, k) with m = f · 2^k, f from 1 to below 2 and k integral, of the type of m, for a positive normal m.

    Zero gives 1 and an exponent below those of all others.
    """
    raise NotImplementedError("compiled by Numba only")


@overload(normalised)
def _normalised(m):
    c = _KINDS[m]
    word, fraction, kind = c.word, c.word(c.fraction), c.kind
    keep, one, bias = word((1 << c.fraction) - 1), word(c.bias << c.fraction), kind(c.bias)
    signed = np.int32 if c.bias == 127 else np.int64

    def implementation(m):
        bits = _bits_of(m)
        return _of_bits(word(word(bits & keep) | one)), kind(signed(word(bits >> fraction))) - bias

    return implementation


def exp(x: Any) -> Any:
    """exp(x): 0 where that would be subnormal, inf where it is beyond the type's range, NaN for NaN."""
    raise NotImplementedError("compiled by Numba only")


@overload(exp)
def _exp(x):
    c = _KINDS[x]
    least, most, kind = c.least, c.most, c.kind
    half, floor, ceiling, magic = kind(0.5), kind(1 - c.bias), kind(c.bias + 1), c.magic
    word, fraction = c.word, c.word(c.fraction)

    def implementation(x):
        f, n = exp_parts(x)
        n = n if n > floor else floor  # for NaN too, where f is not
        n = n if n < ceiling else ceiling
        # In two factors, since 2^n alone may be out of range where f · 2^n is not.
        first = np.rint(n * half)
        scaled = f * _of_bits(word(_bits_of(first + magic) << fraction))
        scaled = scaled * _of_bits(word(_bits_of(n - first + magic) << fraction))
        scaled = kind(0) if x < least else scaled
        scaled = kind(np.inf) if x > most else scaled
        return scaled if x == x else x

    return implementation


def exp_of_negative(x: Any) -> Any:
    """`exp` of what is not above 0, in half its time."""
    raise NotImplementedError("compiled by Numba only")


@overload(exp_of_negative)
def _exp_of_negative(x):
    c, kind = _KINDS[x], _KINDS[x].kind
    log2e, high, low, least, magic = kind(1.4426950408889634), c.high, c.low, c.least, c.magic
    word, fraction, zero, one = c.word, c.word(c.fraction), kind(0), kind(1)
    p = tuple(kind(a) for a in _EXP[x])
    # What stands below 2^n's range comes out as nonsense, NaN at -inf, and is left out; NaN itself comes through.
    if len(p) == 5:
        p0, p1, p2, p3, p4 = p

        def single(x):
            n = np.rint(x * log2e)
            r = (x - n * high) - n * low
            tail = (((p4 * r + p3) * r + p2) * r + p1) * r + p0
            f = one + (r + r * r * tail)
            scaled = f * _of_bits(word(_bits_of(n + magic) << fraction))
            return zero if x < least else scaled

        return single
    p0, p1, p2, p3, p4, p5, p6, p7, p8, p9 = p

    def double(x):
        n = np.rint(x * log2e)
        r = (x - n * high) - n * low
        tail = ((((((((p9 * r + p8) * r + p7) * r + p6) * r + p5) * r + p4) * r + p3) * r + p2) * r + p1) * r + p0
        f = one + (r + r * r * tail)
        return zero if x < least else f * _of_bits(word(_bits_of(n + magic) << fraction))

    return double


def log1p(y: Any) -> Any:
    """log(1 + y) for y from 0 to 1; NaN for NaN."""
    raise NotImplementedError("compiled by Numba only")


@overload(log1p)
def _log1p(y):
    kind = _KINDS[y].kind
    two = kind(2.0)
    p = tuple(kind(a) for a in _LOG[y])
    # log(1 + y) = 2 atanh(s), s = y / (2 + y); and 2 s = y - y s, whose error is a fraction of y's own.
    if len(p) == 5:
        p0, p1, p2, p3, p4 = p

        def single(y):
            s = y / (two + y)
            z = s * s
            return y - s * (y - z * ((((p4 * z + p3) * z + p2) * z + p1) * z + p0))

        return single
    p0, p1, p2, p3, p4, p5, p6, p7, p8, p9, p10 = p

    def double(y):
        s = y / (two + y)
        z = s * s
        tail = ((((p10 * z + p9) * z + p8) * z + p7) * z + p6) * z + p5
        return y - s * (y - z * (((((tail * z + p4) * z + p3) * z + p2) * z + p1) * z + p0))

    return double
