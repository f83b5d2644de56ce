"""The kernels of a family that a device runs: `alignd_kernels.<room>.cpu` or `.gpu` for best paths, `.cpu_sum` or
`.gpu_sum` for sums over all paths, and so on."""

import functools
import importlib
import importlib.util
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any

from alignd.wire.arrays import Buffers, DeviceArray, pieces
from alignd_kernels.dtypes import DType
from alignd_server.device import Device


def backend(room: str, device: Device, suffix: str = "") -> ModuleType:
    """Imported when first used: the GPU's needs torch and Triton."""
    return _module(room, ("gpu" if on_gpu(room, device, suffix) else "cpu") + suffix)


def on_gpu(room: str, device: Device, suffix: str = "") -> bool:
    """Whether the kernels run on the device itself. What has none for a GPU yet runs on the host's processors."""
    return device.torch_device is not None and _exists(f"alignd_kernels.{room}.gpu{suffix}")


@functools.cache
def _exists(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


@functools.cache
def _module(room: str, name: str) -> ModuleType:
    return importlib.import_module(f"alignd_kernels.{room}.{name}")


def run(
    room: str,
    suffix: str,
    function: str,
    batch: Any,
    device: Device,
    alone: bool,
    payloads: Sequence[Buffers],
) -> Any:
    """One launch, on the calling thread's own stream.

    Args:
        room: of `alignd_kernels`.
        suffix: of the name of its module.
        function: of that module.
        batch: what it takes.
        device: where to.
        alone: leave the pool of the CPU's threads to others.
        payloads: what the batch was made of: on a GPU, those that lie there are waited for there.
    """
    kernels = getattr(backend(room, device, suffix), function)
    if device.torch_device is None or not on_gpu(room, device, suffix):
        return kernels(batch, None if alone else device.pool)
    with _own_stream(device.torch_device):
        _wait_for(payloads)
        return kernels(batch, device.torch_device)


def _wait_for(payloads: Sequence[Buffers]) -> None:
    """Let the current stream go on when those on the device are there; the calling thread does not wait."""
    there = [piece for payload in payloads for piece in pieces(payload) if isinstance(piece, DeviceArray)]
    for event in dict.fromkeys(event for piece in there for event in piece.ready):
        event.wait()


def warm_up(room: str, device: Device, suffix: str = "") -> None:
    """Compile, or load, what a GPU's kernels are launched as: also what only long items need."""
    if device.torch_device and device.torch_device.startswith("cuda") and on_gpu(room, device, suffix):
        with _own_stream(device.torch_device):
            backend(room, device, suffix).warm_up(device.torch_device)


def compile_for(room: str, device: Device, suffix: str, dtype: DType) -> None:
    """Compile, or load, all that the host's processors run of a module for one type: more than an example needs."""
    if not on_gpu(room, device, suffix):
        backend(room, device, suffix).warm_up([dtype])


_local = threading.local()

_interpreter = threading.Lock()
"""Triton's interpreter changes Triton's own modules while a kernel runs: one at a time."""


def _own_stream(torch_device: str) -> AbstractContextManager[Any]:
    """Lanes are threads: with a stream each, the copies and kernels of one overlap with those of the other."""
    if not torch_device.startswith("cuda"):
        return _interpreter
    import torch

    if not hasattr(_local, "stream"):
        _local.stream = torch.cuda.Stream(torch_device)
    return torch.cuda.stream(_local.stream)  # type: ignore[no-any-return]
