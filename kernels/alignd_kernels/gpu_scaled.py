# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="assignment, misc"
"""Probabilities as m · 2ᵉ on a GPU: a floating-point m and an int32 e beside it.

Over a lattice probabilities span thousands of powers of e, and sums of their logarithms lose as many digits as the
logarithms are large. Kept like this, products and sums are a few ordinary operations, none of them transcendental, in
the chain that everything waits for, and each adds an ulp or two of relative error at any magnitude.

Nothing is 0 here: what cannot be is 2^`NOTHING`, and sums stop there. An item whose sum is below 2^`LEAST`, or which
holds a log-prob above 0 that could lift a path by more than e^`MOST_UPWARD`, is told to have no finite sum. Hence what
is beside a sum that counts is exact: a log-prob below `CUT` is in no path that matters to it, and what cannot be is
never lifted near to it.
"""

import triton
import triton.language as tl

NOTHING = tl.constexpr(-(1 << 29))
LEAST = tl.constexpr(-(1 << 27))
MOST_UPWARD = tl.constexpr(2.0**24)
CUT = tl.constexpr(-1.2e8)

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)

# ln 2 in two parts: products of the first, of few bits, with an exponent of a few thousand are exact.
LN2_HIGH = tl.constexpr(0.693359375)
LN2_LOW = tl.constexpr(-2.121944400546905827679e-4)


@triton.jit
def exp_parts(x):
    """(m, e) with m · 2ᵉ = exp(x), m within √½ and √2; x is neither NaN nor +∞."""
    held = tl.maximum(x, CUT)
    k = tl.floor(held * LOG2E + 0.5)
    m = tl.exp((held - k * LN2_HIGH) - k * LN2_LOW)
    return tl.where(x < CUT, 1.0, m), tl.where(x < CUT, NOTHING, k.to(tl.int32))


@triton.jit
def power(d, ACC: tl.constexpr):
    """2ᵈ for d within ±126; 0 for less."""
    if tl.float64 == ACC:
        found = ((tl.maximum(d, -1023) + 1023).to(tl.int64) << 52).to(tl.float64, bitcast=True)
    else:
        found = ((tl.maximum(d, -127) + 127) << 23).to(tl.float32, bitcast=True)
    return found


@triton.jit
def added(a, x, b, y, ACC: tl.constexpr):
    """a · 2ˣ + b · 2ʸ as (m, e), m in [1, 2), for a and b in [¼, 8)."""
    top = tl.maximum(tl.maximum(x, y), NOTHING)
    m = a * power(x - top, ACC) + b * power(y - top, ACC)
    if tl.float64 == ACC:
        bits = m.to(tl.int64, bitcast=True)
        more = (bits >> 52).to(tl.int32) - 1023
        m = (bits - (more.to(tl.int64) << 52)).to(tl.float64, bitcast=True)
    else:
        bits = m.to(tl.int32, bitcast=True)
        more = (bits >> 23) - 127
        m = (bits - (more << 23)).to(tl.float32, bitcast=True)
    return m, top + more


@triton.jit
def share_of(m, e, other_e, both_m, both_e, ACC: tl.constexpr):
    """Which part of a sum m · 2ᵉ is, never above 1: all of it, exactly, where the other part is too small to be seen.
    A GPU's division is off by an ulp or two, also that of a number by itself."""
    found = tl.minimum(m * power(e - both_e, ACC) / both_m, 1.0)
    return tl.where(other_e - both_e < -126, 1.0, found)


@triton.jit
def log_of(m, e):
    """ln(m · 2ᵉ) in float64."""
    return tl.log(m.to(tl.float64)) + e.to(tl.float64) * LN2
