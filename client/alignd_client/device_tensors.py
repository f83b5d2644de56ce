"""Tensors that stay on the device on which they lie, as the engine in this process runs there."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from alignd.wire.arrays import Buffers, DeviceArray


@dataclass(frozen=True, slots=True, eq=False)
class DeviceTensor:
    """The caller's tensor, of any shape and strides, where it lies. Its parts are views, as NumPy's would be.

    Attributes:
        tensor: a torch tensor without a gradient.
        stream: the CUDA stream that was the caller's current one: what makes the tensor is queued there. None on the
            CPU, where Triton's interpreter stands for a GPU.
    """

    tensor: Any
    stream: Any

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    @property
    def size(self) -> int:
        return int(self.tensor.numel())

    @property
    def nbytes(self) -> int:
        return int(self.tensor.nbytes)

    @property
    def contiguous(self) -> bool:
        """Whether the values lie row-major and end to end."""
        return bool(self.tensor.is_contiguous())

    def __getitem__(self, index: Any) -> "DeviceTensor":
        return DeviceTensor(self.tensor[index], self.stream)

    def __iter__(self) -> Iterator["DeviceTensor"]:
        return (self[row] for row in range(len(self.tensor)))

    def reshape(self, *shape: int) -> "DeviceTensor":
        return DeviceTensor(self.tensor.reshape(*shape), self.stream)

    def flat(self, borrow: bool) -> "DeviceTensor":
        """The values, row-major and 1-D: where they lie if they may be borrowed and lie so, else in a copy beside."""
        if borrow and self.contiguous:
            return self.reshape(-1)
        with self._on_stream():
            copy = self.tensor.clone(memory_format=sys.modules["torch"].contiguous_format)
        return DeviceTensor(copy.reshape(-1), self.stream)

    def _on_stream(self) -> AbstractContextManager[Any]:
        """By now, another stream may be the current one."""
        return nullcontext() if self.stream is None else sys.modules["torch"].cuda.stream(self.stream)


def staying(value: Any, device: str | None) -> DeviceTensor | None:
    """A tensor that lies on `device`, as torch calls it; None for one that lies elsewhere or is no plain array."""
    torch = sys.modules["torch"]
    if str(value.device) != device or value.layout is not torch.strided:
        return None
    stream = torch.cuda.current_stream(value.device) if value.device.type == "cuda" else None
    return DeviceTensor(value.detach().resolve_neg(), stream)


def end_to_end_there(tensors: Sequence[DeviceTensor]) -> Buffers:
    """One payload of the values of all, each row-major. What lies so is not copied; what lies end to end is one piece.

    Raises:
        RuntimeError: the caller's stream is being captured in a CUDA graph, which nothing can wait for.
    """
    flats = [one.flat(borrow=True).tensor for one in tensors]
    # After any copies: a mark on each stream stands for all that is queued there by now.
    streams = dict.fromkeys(one.stream for one in tensors if one.stream is not None)
    if streams and sys.modules["torch"].cuda.is_current_stream_capturing():
        raise RuntimeError("alignment waits for its results, which cannot be captured in a CUDA graph")
    ready = tuple(stream.record_event() for stream in streams)
    pieces = tuple(DeviceArray(flat, ready) for flat in _merged(flats))
    return pieces[0] if len(pieces) == 1 else pieces


def _merged(flats: Sequence[Any]) -> list[Any]:
    """The same values in as few 1-D tensors as can be had without a copy."""
    runs: list[list[Any]] = []
    for flat in flats:
        if runs and _follows(runs[-1][-1], flat):
            runs[-1].append(flat)
        else:
            runs.append([flat])
    return [run[0] if len(run) == 1 else run[0].as_strided((sum(map(len, run)),), (1,)) for run in runs]


def _follows(before: Any, flat: Any) -> bool:
    """Whether one begins where the other ends, within the same allocation."""
    if flat.data_ptr() != before.data_ptr() + before.nbytes:
        return False
    return bool(flat.untyped_storage().data_ptr() == before.untyped_storage().data_ptr())
