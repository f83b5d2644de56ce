# mypy: allow-untyped-calls
"""Copies between the host's memory and a device's: few and large ones, since each costs the host as much as a launch.

What goes together lies together: the numbers of a batch are one copy, and so are those of its outputs that were made by
one call of `together`.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from alignd_kernels.ragged import Buffers, Int64Array, offsets_of

ALIGNMENT: Final = 16
"""Bytes; of each of the tensors in one piece of memory."""

Part = tuple[tuple[int, ...], torch.dtype]
"""Shape and type of a tensor."""


def together(device: torch.device, *parts: tuple[int, torch.dtype], cleared: bool = False) -> tuple[torch.Tensor, ...]:
    """1-D tensors, of so many elements and of such a type each, one behind the other in one piece of memory.

    Args:
        cleared: whether they are zeros.
    """
    make = torch.zeros if cleared else torch.empty
    shaped = [((count,), dtype) for count, dtype in parts]
    return _carved(make(int(_begins(shaped)[-1]), dtype=torch.uint8, device=device), shaped)


def _begins(parts: Sequence[Part]) -> Int64Array:
    """Where each lies in the piece of memory, and how large that is: bytes, int64 [parts + 1]."""
    sizes = [-(-int(np.prod(shape)) * dtype.itemsize // ALIGNMENT) * ALIGNMENT for shape, dtype in parts]
    return offsets_of(np.array(sizes, np.int64))


def _carved(memory: torch.Tensor, parts: Sequence[Part]) -> tuple[torch.Tensor, ...]:
    begins = _begins(parts).tolist()
    sizes = [int(np.prod(shape)) * dtype.itemsize for shape, dtype in parts]
    return tuple(
        memory[begin : begin + size].view(dtype).view(shape)
        for begin, size, (shape, dtype) in zip(begins, sizes, parts)
    )


def to_device(device: torch.device, *arrays: npt.NDArray[Any]) -> tuple[torch.Tensor, ...]:
    """Copies of arrays on the device, of the same shapes and types: one copy for all of them, not awaited.

    The staging memory is pinned, so that the copy to a GPU overlaps with other work; torch keeps it till the copy ends.
    """
    parts = [(array.shape, _torch_dtype(array.dtype)) for array in arrays]
    staging = torch.empty(int(_begins(parts)[-1]), dtype=torch.uint8, pin_memory=device.type == "cuda")
    for part, array in zip(_carved(staging, parts), arrays):
        np.copyto(part.numpy(), array)
    return _carved(staging.to(device, non_blocking=True), parts)


def _torch_dtype(dtype: np.dtype[Any]) -> torch.dtype:
    return torch.from_numpy(np.empty(0, dtype)).dtype


def staged(
    buffers: Buffers | torch.Tensor | tuple[torch.Tensor, ...],
    sources: Int64Array | None,
    offsets: Int64Array,
    device: torch.device,
    dtype: torch.dtype,
    *,
    joined: bool = False,
) -> tuple[torch.Tensor, Int64Array]:
    """All buffers on the device, and the items' offsets from the first element of what is returned. Arrays are copied
    from where they lie into the staging memory, end to end, and nowhere else. Tensors lie on the device already and are
    not copied: of several the first is returned, and offsets lead from it into the others, wherever they lie. The
    caller holds on to them until the kernels have ended.

    Args:
        joined: several tensors are copied end to end all the same, for who slices what is returned.

    Raises:
        ValueError: several buffers and no `sources`; a tensor on another device, of another type, with gaps, or in the
            middle of an element.
    """
    pieces = buffers if isinstance(buffers, tuple) else (buffers,)
    there = isinstance(pieces[0], torch.Tensor)
    if there:
        _check_tensors(pieces, device, dtype)
    if there and not joined:
        begins = np.array([_elements_between(pieces[0], piece) for piece in pieces], np.int64)
    else:
        begins = offsets_of(np.array([len(piece) for piece in pieces], np.int64))
    if isinstance(buffers, tuple):
        if sources is None:
            raise ValueError("a batch of several buffers needs `sources`, the buffer of each item")
        offsets = offsets + begins[sources]
    if there:
        return torch.cat(pieces) if joined and len(pieces) > 1 else pieces[0], offsets
    staging = torch.empty(int(begins[-1]), dtype=dtype, pin_memory=device.type == "cuda")
    target = _as_numpy(staging, pieces[0].dtype)
    for piece, begin, end in zip(pieces, begins, begins[1:]):
        np.copyto(target[begin:end], piece)
    return staging.to(device, non_blocking=True), offsets


def _elements_between(first: torch.Tensor, other: torch.Tensor) -> int:
    """From the beginning of one to that of the other, wherever the device's memory has them: kernels add it to the
    first one's address.

    Raises:
        ValueError: they lie so that this is no whole number.
    """
    elements, rest = divmod(int(other.data_ptr() - first.data_ptr()), int(first.element_size()))
    if rest:
        raise ValueError(f"a tensor of {other.dtype} that begins in the middle of an element")
    return elements


def _check_tensors(pieces: Sequence[torch.Tensor], device: torch.device, dtype: torch.dtype) -> None:
    device = torch.empty(0, device=device).device  # with its index
    for piece in pieces:
        if piece.device != device or piece.dtype != dtype:
            raise ValueError(f"a tensor of {piece.dtype} on {piece.device}, not of {dtype} on {device}")
        if piece.dim() != 1 or not piece.is_contiguous():
            raise ValueError("a tensor of values must be 1-D and contiguous")


def _as_numpy(tensor: torch.Tensor, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """The memory of a host tensor as an array of another type of the same size."""
    same_bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    array: npt.NDArray[Any] = tensor.view(same_bits).numpy().view(dtype)
    return array


def to_host(tensors: Sequence[torch.Tensor]) -> list[npt.NDArray[Any]]:
    """Contiguous tensors as arrays, after everything queued on the device's current stream: the one wait of a batch.
    Those that lie in one piece of memory are one copy, with what lies between them."""
    if tensors[0].device.type != "cuda":
        return [tensor.numpy() for tensor in tensors]
    copies = _copies(tensors, pinned=True)
    copied = torch.cuda.Event()
    copied.record()
    copied.synchronize()
    return [copy.numpy().copy() for copy in copies]  # pinned memory is scarce: do not let results hold it


def _copies(tensors: Sequence[torch.Tensor], *, pinned: bool) -> list[torch.Tensor]:
    """The same in the host's memory, not awaited."""
    spans: dict[int, tuple[int, int]] = {}
    for tensor in tensors:
        memory, (begin, end) = tensor.untyped_storage().data_ptr(), _bytes_of(tensor)
        begin = begin // ALIGNMENT * ALIGNMENT
        first, last = spans.get(memory, (begin, end))
        spans[memory] = min(first, begin), max(last, end)
    staging: dict[int, torch.Tensor] = {}
    copies = []
    for tensor in tensors:
        storage = tensor.untyped_storage()
        first, last = spans[storage.data_ptr()]
        if storage.data_ptr() not in staging:
            there = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage, first, (last - first,))
            here = torch.empty(last - first, dtype=torch.uint8, pin_memory=pinned)
            staging[storage.data_ptr()] = here.copy_(there, non_blocking=True)
        begin, end = _bytes_of(tensor)
        here = staging[storage.data_ptr()][begin - first : end - first]
        copies.append(here.view(tensor.dtype).view(tensor.shape))
    return copies


def _bytes_of(tensor: torch.Tensor) -> tuple[int, int]:
    """Where it begins and ends in its memory."""
    assert tensor.is_contiguous()
    begin = tensor.storage_offset() * tensor.element_size()
    return begin, begin + tensor.numel() * tensor.element_size()
