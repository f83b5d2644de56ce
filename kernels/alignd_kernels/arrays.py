"""NumPy arrays and torch tensors behind one view; torch is recognised by looking at an argument, never imported."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from alignd_kernels.dtypes import DType, to_storage
from alignd_kernels.ragged import Int64Array


def is_torch(array: object) -> bool:
    """Whether `array` is a torch tensor, of a subclass too."""
    return any(base.__module__ == "torch" and base.__name__ == "Tensor" for base in type(array).__mro__)


def on_gpu(array: Any) -> bool:
    """Whether `array` is a tensor outside host memory."""
    return is_torch(array) and array.device.type != "cpu"


def check_known_device(array: Any, name: str) -> None:
    """Raises:
    NotImplementedError: the argument of a function of this name is neither on the CPU nor on a CUDA device.
    """
    if on_gpu(array) and array.device.type != "cuda":
        raise NotImplementedError(
            f"{name} runs on the CPU and on CUDA devices only, but the tensor is on {array.device}: pass .cpu()"
        )


def host(array: Any) -> npt.NDArray[Any]:
    """`array` as NumPy sees it, without a copy where it can be.

    Raises:
        ValueError: for a tensor on another device; arguments must all be on one.
    """
    if not is_torch(array):
        return np.asarray(array)
    if array.device.type != "cpu":
        raise ValueError(f"all arguments must be on one device, but one is on {array.device}")
    found: npt.NDArray[Any] = array.detach().numpy()
    return found


def host_scores(array: Any, *, strided: bool = False) -> tuple[npt.NDArray[np.generic], DType]:
    """Floating-point scores in host memory as their storage type, C-contiguous: a copy only where they are not.

    Args:
        strided: leave strides as they are.

    Raises:
        TypeError: for anything but float16, bfloat16, float32 and float64.
    """
    if is_torch(array) and str(array.dtype) == "torch.bfloat16":
        import torch

        words = array.detach().view(torch.int16).numpy()
        return (words if strided else np.ascontiguousarray(words)).view(np.uint16), DType.BFLOAT16
    found = host(array)
    if found.dtype.byteorder not in "=|" and found.dtype.kind == "f":
        found = found.astype(found.dtype.newbyteorder("="))
    return to_storage(found if strided else np.ascontiguousarray(found))


def integers(given: Any, name: str) -> npt.NDArray[np.integer]:
    """A caller's integers as NumPy sees them; an empty list holds none.

    Raises:
        TypeError: they are not integers.
        ValueError: lists of different lengths.
    """
    if isinstance(given, list | tuple):
        try:
            found = np.asarray(given)
        except ValueError:
            raise ValueError(f"{name} must be of one length, padded: lists of different lengths were given") from None
        found = found if found.size else found.astype(np.int64)
    else:
        found = host(given)
    if found.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers, not {found.dtype}")
    return found


def of_lists(given: Any, name: str) -> Any:
    """A caller's lists of integers as `integers` sees them; arrays and tensors as they are."""
    return integers(given, name) if isinstance(given, list | tuple) else given


def lengths(array: Any, name: str, items: int, largest: int) -> Int64Array:
    """The caller's lengths as int64 [items]; `largest` for each if None is given.

    Raises:
        TypeError: they are not integers.
        ValueError: not one for each item, or one outside 0 … largest.
    """
    if array is None:
        return np.full(items, largest, np.int64)
    found = integers(array, name)
    if found.shape != (items,):
        raise ValueError(f"{name} must be of shape ({items},), one for each item, not {found.shape}")
    outside = np.flatnonzero((found < 0) | (found > largest))
    if outside.size:
        index = int(outside[0])
        raise ValueError(f"{name}[{index}] is {found[index]}; it must be from 0 to {largest}")
    return found.astype(np.int64)


def same_device(arrays: Sequence[Any], names: Sequence[str]) -> None:
    """Raises:
    ValueError: naming the first argument that is not on the device of the first one.
    """
    first = arrays[0].device
    for array, name in zip(arrays, names):
        if array is not None and (not is_torch(array) or array.device != first):
            where = array.device if is_torch(array) else "the host"
            raise ValueError(f"{name} is on {where}, but {names[0]} is on {first}: all must be on one device")
