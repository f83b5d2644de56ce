"""NumPy arrays and torch tensors on their way in and out, without importing torch.

A tensor can only be an argument where its caller has imported torch, so looking into `sys.modules` finds it.
"""

import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from alignd.wire import DataType
from alignd.wire.arrays import Buffers, Int64Array
from alignd_client.device_tensors import DeviceTensor, end_to_end_there, staying

NumpyArray = npt.NDArray[Any]
Scores = NumpyArray | DeviceTensor

NATIVE: Final = {kind.storage.newbyteorder("="): kind for kind in (DataType.FLOAT32, DataType.FLOAT64)}
"""NumPy's dtypes that are stored as they are."""

WORDS: Final = {1: np.uint8, 2: np.int16, 4: np.int32, 8: np.int64}
"""Integers that torch has too, by size: what a tensor of any type is looked at as."""

JOINED_BYTES: Final = 1 << 15
"""Matrices below this are copied end to end: to tell a kernel where each of them lies takes longer."""


def is_tensor(value: object) -> bool:
    torch = sys.modules.get("torch")
    tensor = getattr(torch, "Tensor", None)
    return tensor is not None and isinstance(value, tensor)


@dataclass(frozen=True, slots=True)
class Kind:
    """What the caller's arrays are: NumPy where `device` is None, else torch on that device."""

    device: Any = None

    @classmethod
    def of(cls, value: Any) -> "Kind":
        return NUMPY if isinstance(value, np.ndarray) or not is_tensor(value) else cls(value.device)

    def wrap(self, array: NumpyArray) -> Any:
        """`array` as the caller's kind; on the CPU without a copy where it can be written to."""
        if self.device is None:
            return array
        torch = sys.modules["torch"]
        return torch.from_numpy(array if array.flags.writeable else array.copy()).to(self.device)

    def cast(self, array: NumpyArray, dtype: Any) -> Any:
        """`array` as the caller's kind, in a dtype of that kind."""
        if self.device is None:
            return array.astype(dtype, copy=False)
        name = str(dtype).removeprefix("torch.")
        if self.device.type == "cpu" and name != "bfloat16":  # torch's threads, if it had any, are missing after a fork
            with np.errstate(over="ignore"):
                array = array.astype(name, copy=False)
        return sys.modules["torch"].from_numpy(array).to(device=self.device, dtype=dtype)

    def zeros(self, shape: Sequence[int], dtype: Any) -> Any:
        if self.device is None:
            return np.zeros(shape, dtype)
        torch = sys.modules["torch"]
        if self.device.type == "cpu" and dtype.itemsize in WORDS:  # as in `cast`
            return torch.from_numpy(np.zeros(shape, WORDS[dtype.itemsize])).view(dtype)
        return torch.zeros(tuple(shape), dtype=dtype, device=self.device)

    def dtype(self, name: str) -> Any:
        """The kind's own dtype of that name."""
        return np.dtype(name) if self.device is None else getattr(sys.modules["torch"], name)


NUMPY = Kind()


def dtype_name(value: Any) -> str:
    """NumPy's, torch's and ml_dtypes' common name of an array's dtype."""
    return str(value.dtype).removeprefix("torch.") if is_tensor(value) else value.dtype.name


def _require_array(value: Any, name: str) -> None:
    if not isinstance(value, np.ndarray) and not is_tensor(value):
        raise TypeError(f"{name} must be a NumPy array or a torch tensor, not {type(value).__name__}")


def require_dimensions(value: Any, name: str, axes: str) -> None:
    """Raises `TypeError` for what is no array and `ValueError` for another number of dimensions than `axes` names."""
    _require_array(value, name)
    wanted = axes.count(",") + 1
    if value.ndim == wanted:
        return
    hint = "; squeeze its axis of size 1" if value.ndim == wanted + 1 and 1 in value.shape else ""
    if name.startswith("each item") and value.ndim == wanted - 1:
        hint = "; a single item goes into a list: [item]"
    raise ValueError(f"{name} must be {wanted}-D [{axes}], not {value.ndim}-D {list(value.shape)}{hint}")


def to_numpy(value: Any) -> NumpyArray:
    """A NumPy view of an array, or a copy if it lives on another device. bfloat16 tensors become int16."""
    if isinstance(value, DeviceTensor):
        value = value.tensor
    if not is_tensor(value):
        return np.asarray(value)
    tensor = value.detach().cpu().resolve_neg()
    if dtype_name(tensor) == "bfloat16":
        tensor = tensor.view(sys.modules["torch"].int16)
    array: NumpyArray = tensor.numpy()
    return array


def words_of(tensor: Any) -> NumpyArray:
    """The memory of a tensor on the CPU as integers of its elements' size."""
    torch = sys.modules["torch"]
    name = np.dtype(WORDS[tensor.dtype.itemsize]).name
    words: NumpyArray = tensor.view(getattr(torch, name)).numpy()
    return words


def scores(value: Any, name: str, axes: str, device: str | None = None) -> tuple[Scores, DataType]:
    """An array of log-scores in the type that stores them, with any strides, and that type's name.

    Args:
        value: of the caller's.
        name: what errors call it.
        axes: its axes' names.
        device: tensors there, as torch calls it, stay there.

    Raises:
        TypeError: unless it is a NumPy array or torch tensor of float16, bfloat16, float32 or float64.
        ValueError: for another number of dimensions than `axes` names.
    """
    if type(value) is np.ndarray and value.ndim == axes.count(",") + 1 and value.dtype in NATIVE:
        return value, NATIVE[value.dtype]  # what nearly all give, at little cost
    require_dimensions(value, name, axes)
    try:
        data_type = DataType(dtype_name(value))
    except ValueError:
        raise TypeError(
            f"{name} must be float16, bfloat16, float32 or float64, not {dtype_name(value)}: convert it first"
        ) from None
    there = staying(value, device) if device is not None and is_tensor(value) else None
    if there is not None:
        return there, data_type
    array = to_numpy(value)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    # The same-sized integer, as NumPy has no bfloat16 of its own.
    return array.view(data_type.storage.newbyteorder("=")), data_type


def exists_whole(values: object) -> bool:
    """Whether all of the caller's arrays are there already; an iterator, or a sequence that makes its items when asked
    for them, may put the next one where this one is."""
    return isinstance(values, np.ndarray | list | tuple) or is_tensor(values)


def stacked(value: Any, device: str | None = None) -> tuple[Scores, DataType] | None:
    """`scores` of a [B, rows, columns] array in host memory, or on `device`, whose items lie end to end; None for
    anything else."""
    if not isinstance(value, np.ndarray) and not (
        is_tensor(value) and (value.device.type == "cpu" or str(value.device) == device)
    ):
        return None
    if value.ndim != 3 or 0 in value.shape:
        return None
    try:
        array, data_type = scores(value, "values", "B, rows, columns", device)
    except TypeError:
        return None
    whole = array.contiguous if isinstance(array, DeviceTensor) else array.flags.c_contiguous
    return (array, data_type) if whole else None


def flat(array: Scores, borrow: bool) -> Scores:
    """The values, row-major and 1-D: where they lie if they may be borrowed and lie so, else in memory of our own."""
    if isinstance(array, DeviceTensor):
        return array.flat(borrow)
    return (np.ascontiguousarray(array) if borrow else np.array(array, order="C", copy=True)).reshape(-1)


def end_to_end(arrays: Sequence[Any]) -> Buffers:
    """One payload of the values of all `Scores`, each row-major. Large arrays that lie so are not copied."""
    if isinstance(arrays[0], DeviceTensor):
        return end_to_end_there(arrays)
    if len(arrays) == 1 and arrays[0].ndim == 1:
        return np.ascontiguousarray(arrays[0])
    pieces: list[NumpyArray] = []
    small: list[NumpyArray] = []
    for array in arrays:
        if array.nbytes < JOINED_BYTES:
            small.append(array.reshape(-1))
            continue
        if small:
            pieces.append(_joined(small))
            small = []
        pieces.append(np.ascontiguousarray(array).reshape(-1))
    if small:
        pieces.append(_joined(small))
    return pieces[0] if len(pieces) == 1 else tuple(pieces)


def _joined(arrays: Sequence[NumpyArray]) -> NumpyArray:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def lengths(values: Sequence[int], counts: Sequence[int]) -> Int64Array:
    """int64 [sum of counts]: each value as often as its count says."""
    if len(counts) == 1:
        return same_lengths(values[0], counts[0])
    return np.repeat(np.array(values, np.int64), counts)


def same_lengths(value: int, count: int) -> Int64Array:
    """int64 [count]."""
    array = np.empty(count, np.int64)
    array.fill(value)
    return array


def shared_kind(kinds: Sequence[Kind], counts: Sequence[int]) -> Kind | list[Kind]:
    """The one kind of all items, or each item's."""
    if len(kinds) == 1 or all(kind == kinds[0] for kind in kinds):
        return kinds[0]
    return [kind for kind, count in zip(kinds, counts) for _ in range(count)]


def kind_at(kinds: Kind | list[Kind], place: int) -> Kind:
    return kinds if isinstance(kinds, Kind) else kinds[place]


def wrapped(arrays: list[NumpyArray], kinds: Kind | list[Kind]) -> list[Any]:
    """Each array as its caller's kind."""
    if kinds is NUMPY:
        return arrays
    each = [kinds] * len(arrays) if isinstance(kinds, Kind) else kinds
    return [kind.wrap(array) for kind, array in zip(each, arrays)]


def owned_parts(array: NumpyArray, lengths: Int64Array) -> list[NumpyArray]:
    """`array`, which holds items end to end, as one array for each: in memory of its own, so that a result that is kept
    does not keep the others of its reply."""
    sizes = lengths.tolist()
    if sizes.count(sizes[0]) == len(sizes):  # rows of a matrix are made sooner than slices
        return list(map(np.ndarray.copy, array.reshape(len(sizes), sizes[0])))
    ends = list(itertools.accumulate(sizes, initial=0))
    return [array[start:end].copy() for start, end in itertools.pairwise(ends)]


def integers(value: Any, name: str, axes: str) -> NumpyArray:
    """An array of integers from a NumPy array, a torch tensor or (nested) Python sequences.

    Raises:
        TypeError: for anything else than integers.
        ValueError: for another number of dimensions than `axes` names.
    """
    if type(value) is np.ndarray and value.dtype.kind in "iu" and value.ndim == axes.count(",") + 1:
        return value  # what nearly all give, at little cost
    if is_tensor(value) or isinstance(value, np.ndarray):
        array, given = to_numpy(value), dtype_name(value)
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        try:
            array = np.array([to_numpy(row) if is_tensor(row) else row for row in value])
        except ValueError:
            raise ValueError(f"{name} must be [{axes}], with rows of one length") from None
        array = array if array.size else array.astype(np.int64)
        given = array.dtype.name
    else:
        given = type(value).__name__
        raise TypeError(f"{name} must be integers, as a NumPy array, a torch tensor or a list, not {given}")
    # By its name, since a bfloat16 tensor is an int16 array by now.
    if "int" not in given:
        raise TypeError(f"{name} must be integers, not {given}")
    require_dimensions(array, name, axes)
    return array


def to_int32(array: NumpyArray) -> npt.NDArray[np.int32]:
    """Integers as int32 in memory of our own; those that do not fit become the nearest that does, which no vocabulary
    holds either."""
    if array.dtype == np.int32:
        return array.astype(np.int32)  # of the machine's byte order
    narrow = array.astype(np.int32)
    if array.dtype.kind == "i" and (narrow == array).all():
        return narrow
    limits = np.iinfo(np.int32)
    if array.dtype.kind == "u":
        array = np.minimum(array.astype(np.uint64), np.uint64(limits.max))
    return np.clip(array.astype(np.int64), limits.min, limits.max).astype(np.int32)
