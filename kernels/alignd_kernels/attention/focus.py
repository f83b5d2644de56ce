# mypy: allow-untyped-defs, disable-error-code="untyped-decorator"
"""Focus rates of attention heads: every cell of every head, read once (Numba).

Halves are compared as the integers that they are stored as, made such that their order is that of the values: twice as
many fit into a vector as there are when they are widened.
"""

from typing import Any, Final

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

from alignd_kernels.compile_cache import part
from alignd_kernels.dtypes import DType
from alignd_kernels.numba_helpers import array_at, widen

GROUP: Final = 8
"""Heads whose rates are summed side by side: each sum is a chain of dependent additions."""

FEW_TOKENS: Final = 64
"""Below this the chain takes more than a tenth of what reading a head does. Above, pairs of heads do, which threads
share evenly: of 20 heads in eights one thread gets 12."""

INFINITY: Final = {types.uint16: 0x7C00, types.int16: 0x7F80}
"""Stored bits of +inf in float16 and bfloat16."""


def key_type(dtype: DType) -> np.dtype[Any]:
    """Of the array of largest keys."""
    halves = dtype in (DType.FLOAT16, DType.BFLOAT16)
    return np.dtype(np.int16 if halves else dtype.value)


@intrinsic
def _as_key(typing_context: Any, value: Any) -> Any:
    """A stored half as an int16 that is in order: what lies behind the sign is turned round where that is negative."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        half = ir.IntType(16)
        signs = builder.ashr(args[0], ir.Constant(half, 15))
        return builder.xor(args[0], builder.and_(signs, ir.Constant(half, 0x7FFF)))

    return types.int16(value), generate


@intrinsic
def _stored_like(typing_context: Any, key: Any, model: Any) -> Any:
    """`_as_key` backwards, which is the same, as the type that `model` stores."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        half = ir.IntType(16)
        signs = builder.ashr(args[0], ir.Constant(half, 15))
        return builder.xor(args[0], builder.and_(signs, ir.Constant(half, 0x7FFF)))

    return model.dtype(key, model), generate


@intrinsic
def _half_not_finite(typing_context: Any, key: Any, infinity: Any) -> Any:
    """Whether the key is that of NaN or +inf: it is not from −inf's to below +inf's, which one comparison tells."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        half = ir.IntType(16)
        above = builder.trunc(args[1], half)
        from_least = builder.add(builder.add(args[0], above), ir.Constant(half, 1))
        span = builder.add(builder.add(above, above), ir.Constant(half, 1))
        return builder.icmp_unsigned(">=", from_least, span)

    return types.boolean(key, infinity), generate


def key_of(value: Any) -> Any:
    """A stored value as a number in order: a float itself, a half as an int16."""
    raise NotImplementedError("compiled by Numba only")


@overload(key_of)
def _key_of(value):
    if value in INFINITY:
        return lambda value: _as_key(value)
    return lambda value: value


def value_of(key: Any, model: Any) -> Any:
    """The value of a key, in the accumulator's type; `model` is an array of the stored type."""
    raise NotImplementedError("compiled by Numba only")


@overload(value_of)
def _value_of(key, model):
    if model.dtype in INFINITY:
        return lambda key, model: widen(_stored_like(key, model))
    return lambda key, model: key


def not_finite(key: Any, model: Any) -> Any:
    """Whether the key is NaN's or +inf's."""
    raise NotImplementedError("compiled by Numba only")


@overload(not_finite)
def _not_finite(key, model):
    if model.dtype in INFINITY:
        infinity = np.int64(INFINITY[model.dtype])
        return lambda key, model: _half_not_finite(key, infinity)
    return lambda key, model: not key < np.inf


@part
def _largest_of_head(address, pitch, S, T, model, largest):
    """The largest key of any token in each frame.

    Args:
        address: of the head's cell (0, 0).
        pitch: elements from a token's row to the next.
        largest: [T], filled.

    Returns:
        whether there is NaN or +inf.
    """
    found = False
    for s in range(S):
        cells = array_at(address + s * pitch * model.itemsize, T, model)
        if s == 0:
            for t in range(T):
                key = key_of(cells[t])
                found |= not_finite(key, model)
                largest[t] = key
        else:
            for t in range(T):
                key = key_of(cells[t])
                found |= not_finite(key, model)
                largest[t] = key if key > largest[t] else largest[t]
    return found


@part
def group_size(S):
    """Heads that are rated together, of S tokens."""
    return GROUP if S < FEW_TOKENS else 2


@part
def rates_of_group(address, head_pitch, pitch, S, T, model, largest, sums, rates):
    """Focus rates of the next heads, at most `GROUP`.

    Args:
        address: of the first head's cell (0, 0).
        head_pitch: elements from a head to the next.
        pitch: elements from a token's row to the next.
        largest: scratch of `key_type`, [GROUP, T or more].
        sums: scratch, float64 [GROUP].
        rates: float32, one for each head, filled.

    Returns:
        whether there is NaN or +inf in any of the heads.
    """
    found = False
    for h in range(len(rates)):
        head = address + h * head_pitch * model.itemsize
        found |= _largest_of_head(head, pitch, S, T, model, largest[h])
        sums[h] = 0.0
    if found:
        return True
    for t in range(T):  # in frame order
        for h in range(len(rates)):
            sums[h] += np.float64(value_of(largest[h, t], model))
    for h in range(len(rates)):
        rates[h] = np.float32(sums[h] / np.float64(T))
    return False


@part
def first_largest(rates):
    """The head to align."""
    head = 0
    for h in range(1, len(rates)):
        if rates[h] > rates[head]:
            head = h
    return head
