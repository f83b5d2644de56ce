"""What the CPU kernels of all families share: values widened on the fly, arrays in the one form that was compiled."""

from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload
from numba.np.arrayobj import populate_array

from alignd_kernels.dtypes import DType
from alignd_kernels.ragged import Buffers, Int64Array


def kernel_values(storage: npt.NDArray[np.generic], dtype: DType) -> npt.NDArray[np.generic]:
    """`storage` as the kernels take it, without a copy if it is contiguous and aligned.

    Numba compiles anew for each array type. To keep that to one per dtype, a read-only array is seen as a writable one
    (no kernel writes to its input), and bfloat16 goes as int16, which tells it from float16's uint16.
    """
    array = storage
    if not (storage.flags.carray and storage.dtype == dtype.storage):  # asked here: `require` takes 50 µs out of cache
        array = np.require(storage, dtype.storage, ["C", "A"])
    if dtype is DType.BFLOAT16:
        array = array.view(np.int16)
    return unlocked(array)


def unlocked(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A view of a contiguous array that NumPy and Numba take for writable. Kernels write to no input."""
    if array.flags.writeable:
        return array
    return np.asarray(_Unlocked(array))


class _Unlocked:
    def __init__(self, array: npt.NDArray[Any]) -> None:
        self._array = array  # NumPy keeps this object, and so the memory, alive
        interface = dict(array.__array_interface__)
        interface["data"] = (interface["data"][0], False)
        self.__array_interface__ = interface


def model_of(dtype: DType) -> npt.NDArray[np.generic]:
    """An empty array of the kernels' type for `dtype`: what tells a kernel what lies at an address."""
    return _MODELS[dtype]


_MODELS = {dtype: kernel_values(np.empty(0, dtype.storage), dtype) for dtype in DType}


def addresses_of(
    buffers: Buffers, dtype: DType, sources: Int64Array | None, offsets: Int64Array
) -> tuple[object, Int64Array]:
    """Where each item lies in memory, without a copy of contiguous and aligned buffers.

    Args:
        buffers: 1-D, of `dtype.storage`.
        dtype: of the scores.
        sources: int64 [B], the buffer of each item; None if there is one for all.
        offsets: int64 [B], index of each item's first element in its buffer.

    Returns:
        what must be kept alive while the addresses are in use, and int64 [B].
    """
    if isinstance(buffers, tuple):
        if sources is None:
            raise ValueError("a batch of several buffers needs `sources`, the buffer of each item")
        kept = [np.require(buffer, dtype.storage, ["C", "A"]) for buffer in buffers]
        bases = np.array([buffer.ctypes.data for buffer in kept], np.int64)
        return kept, bases[sources] + offsets * dtype.storage.itemsize
    array = np.require(buffers, dtype.storage, ["C", "A"])
    return array, array.ctypes.data + np.asarray(offsets, np.int64) * dtype.storage.itemsize


@intrinsic
def array_at(typing_context: Any, address: Any, length: Any, model: Any) -> Any:
    """The `length` elements from `address` on, of the dtype of `model`, as an array that owns nothing."""
    if not isinstance(address, types.Integer) or not isinstance(model, types.Array):
        return None
    found = types.Array(model.dtype, 1, "C")

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        array = context.make_array(found)(context, builder)
        pointer = builder.inttoptr(args[0], array.data.type)
        size = model.dtype.bitwidth // 8
        itemsize = ir.Constant(ir.IntType(64), size)
        populate_array(array, pointer, args[1:2], [itemsize], itemsize, meminfo=None)
        return array._getvalue()

    return found(types.int64, types.int64, model), generate


@intrinsic
def take_next(typing_context: Any, cursor: Any) -> Any:
    """cursor[0], which is one more for whoever asks next, on whatever thread.

    Args:
        cursor: int64 [1].
    """
    if cursor != types.Array(types.int64, 1, "C"):
        return None

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        return builder.atomic_rmw("add", data, ir.Constant(ir.IntType(64), 1), "monotonic")

    return types.int64(cursor), generate


def lane_count(dtype: DType) -> int:
    """N, accumulators in a vector of 64 bytes: the kernels' unit of work."""
    return 8 if dtype is DType.FLOAT64 else 16


def lanes_of(scores: Any) -> int:
    """N for scores of a Numba type."""
    return 8 if scores == types.float64 else 16


def lanes(array: Any) -> int:
    """N for an array of scores, a constant of the compiled code."""
    raise NotImplementedError("compiled by Numba only")


@overload(lanes)
def _lanes(array):  # type: ignore[no-untyped-def]
    count = lanes_of(array.dtype)
    return lambda array: count


@intrinsic
def float_of_bits(typing_context: Any, bits: Any) -> Any:
    """The float32 with the given uint32 bits."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.uint32), generate


def widen(value: Any) -> Any:
    """A stored score in the accumulator's type, exactly: float32, float64, uint16 (float16) or int16 (bfloat16)."""
    raise NotImplementedError("compiled by Numba only")


@overload(widen)
def _widen(value):  # type: ignore[no-untyped-def]
    if value == types.int16:
        return lambda value: float_of_bits(np.uint32(np.uint32(np.uint16(value)) << np.uint32(16)))
    if value == types.uint16:

        def widen_float16(value):  # type: ignore[no-untyped-def]
            half = np.uint32(value)
            magnitude = np.uint32(np.uint32(half & np.uint32(0x7FFF)) << np.uint32(13))
            sign = np.uint32(np.uint32(half & np.uint32(0x8000)) << np.uint32(16))
            exponent = np.uint32(magnitude & np.uint32(0x0F800000))
            # Rebias 15 -> 127; once more for inf and NaN. A subnormal is exact as the difference of two normal numbers,
            # so that flush-to-zero modes do no harm.
            bits = np.uint32(magnitude + np.uint32(112 << 23))
            if exponent == np.uint32(0x0F800000):
                bits = np.uint32(bits + np.uint32(112 << 23))
            normal = float_of_bits(np.uint32(bits | sign))
            tiny = float_of_bits(np.uint32(magnitude + np.uint32(113 << 23))) - np.float32(2.0**-14)
            signed_tiny = -tiny if sign else tiny
            return signed_tiny if exponent == np.uint32(0) else normal

        return widen_float16
    return lambda value: value
