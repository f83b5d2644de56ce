# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# mypy: disable-error-code="assignment, misc"
"""Logarithms of attention's values on a GPU: those of `logarithm`, to the last bit.

The device's library has others. These are the same additions, products and one division in float64, each rounded by
itself, in the same order: which are of float32 and of the halves the correctly rounded ones but where that is a matter
of the float64's last place.
"""

import triton
import triton.language as tl

from alignd_kernels.attention.gpu_item import CELLS, FRAMES, ROW_PITCH, TILES
from alignd_kernels.dtypes import DType
from alignd_kernels.gpu_language import OK, accumulator_in_kernel, entry_of, item_at, kernel, room_of, widen

LN_2_HIGH = tl.constexpr(0.6931471805582987)
LN_2_LOW = tl.constexpr(1.6465949582897082e-12)
LEAST_NORMAL = tl.constexpr(2.2250738585072014e-308)
SQRT_2 = tl.constexpr(1.4142135623730951)
TWO_54 = tl.constexpr(2.0**54)

FRACTION = tl.constexpr((1 << 52) - 1)
ONE = tl.constexpr(1023 << 52)

ROWS_AT_A_TIME = tl.constexpr(8)


def constants(dtype: DType) -> dict[str, object]:
    """What the kernel is compiled for."""
    return {"ACC": accumulator_in_kernel(dtype)}


def variants(dtype: DType) -> list[dict[str, object]]:
    """All that are ever launched for values of this type."""
    return [constants(dtype)]


@triton.jit
def _log1p(y):
    """See `vector_math.log1p`."""
    s = y / (y + 2.0)
    z = s * s
    tail = z * 0.15660691621489226 + 0.07475835983052473
    tail = tail * z + 0.10848923575838183
    tail = tail * z + 0.11733804216043209
    tail = tail * z + 0.13335214870529802
    tail = tail * z + 0.15384542263422973
    tail = tail * z + 0.18181819946108443
    tail = tail * z + 0.22222222197467725
    tail = tail * z + 0.2857142857160619
    tail = tail * z + 0.399999999999995
    tail = tail * z + 0.6666666666666666
    return y - s * (y - z * tail)


@triton.jit
def log(x):
    """Of float64: −∞ of 0, NaN of a negative or of NaN. +∞ is not looked for."""
    small = x < LEAST_NORMAL
    bits = tl.where(small, x * TWO_54, x).to(tl.int64, bitcast=True)
    m = ((bits & FRACTION) | ONE).to(tl.float64, bitcast=True)
    exponent = (bits >> 52).to(tl.float64) - 1023.0
    exponent = tl.where(small, exponent - 54.0, exponent)
    above = m > SQRT_2
    m = tl.where(above, m * 0.5, m)
    exponent = tl.where(above, exponent + 1.0, exponent)
    found = exponent * LN_2_HIGH + (exponent * LN_2_LOW + _log1p(m - 1.0))
    found = tl.where(x == 0.0, float("-inf"), found)
    return tl.where(x >= 0.0, found, float("nan"))


@triton.jit
def log_of(x, ACC: tl.constexpr):
    """Of stored values, as accumulators."""
    return log(widen(x, ACC).to(tl.float64)).to(ACC)


@kernel
def attention_logarithms_kernel(
    values,
    tokens,
    frames,
    table,
    chosen,
    statuses,
    cells,
    pitch_of_table,
    items,
    ACC: tl.constexpr,
):
    """Logarithms of the chosen heads, a program for 32 tokens and 32 frames. `table`: see `gpu_item`.

    Args:
        chosen, statuses: as `attention_heads_kernel` has left them.
        cells: accumulators, the items' [S, T], written; of a padded batch with its pitch.
    """
    tile = tl.program_id(0)
    b = item_at(table, pitch_of_table, items, tile, TILES)
    S = tl.load(tokens + b).to(tl.int32)
    T = tl.load(frames + b)
    own = (tile - entry_of(table, pitch_of_table, b, TILES)).to(tl.int32)
    strips = tl.cdiv(S, 32)
    if tl.load(statuses + b) == OK:
        values += tl.load(chosen + b)
        pitch = entry_of(table, pitch_of_table, b, ROW_PITCH)
        cells += entry_of(table, pitch_of_table, b, CELLS)
        own_pitch = room_of(table, pitch_of_table, b, FRAMES)
        t = own // strips * 32 + tl.arange(0, 32)[None, :]
        for done in range(0, 32, ROWS_AT_A_TIME):
            s = own % strips * 32 + done + tl.arange(0, ROWS_AT_A_TIME)[:, None]
            inside = (s < S) & (t < T)
            x = tl.load(values + (s.to(tl.int64) * pitch + t), mask=inside, other=1.0)
            tl.store(cells + (s.to(tl.int64) * own_pitch + t), log_of(x, ACC), mask=inside)
