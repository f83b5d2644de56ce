"""Where the GPU's kernels run: on a CUDA device, or in a rehearsal interpreted on the CPU.

Everything here that touches `torch.cuda` is in one class, so that a rehearsal runs all the rest.
"""

from __future__ import annotations

import functools
import os
import statistics
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from benchmarks import peers
from benchmarks.measure import wall_clock
from benchmarks.rates import Rates
from support.interpreter import quicken

CHAIN_CYCLES = 37
"""Of one frame of CTC's recurrence, each waiting for the one before: a shuffle between lanes, two comparisons with
selects, and an addition. An estimate from published latencies, about the same on sm_80 to sm_100; not a measurement."""

COPY_BYTES = 1 << 30
FLUSH_BYTES = 256 << 20
PINNED_BYTES = 256 << 20
COPIES = 21

WHOLE_CALL, ON_DEVICE, IN_KERNELS = "whole call", "on the device", "in the kernels"
"""Clocks: the host's, from an idle device to an idle device; two events on the stream, with the launches queued while
the device is busy, as super-monotonic-align's own benchmark measures; and what `align` says of its kernels."""


class Place(ABC):
    """What the cases ask of either."""

    device: str
    """What torch calls it."""
    engine: str
    """What the engine calls it."""
    profiled: str
    """Profiled activities that are the device's: "CUDA" or "CPU"."""
    tiny: bool
    """Shapes that the interpreter can do."""

    @abstractmethod
    def synchronize(self) -> None:
        """Wait until the device is idle."""

    @abstractmethod
    def flush(self) -> None:
        """Queue work that leaves nothing of the inputs in the cache, and keeps the device busy for a moment."""

    @abstractmethod
    def on_device(self, call: Callable[[], object]) -> float:
        """Seconds between the start of the call's work and its end, on the device's own clock."""

    @abstractmethod
    def cycles_per_s(self) -> float:
        """Highest clock of the multiprocessors; 0 if nothing tells."""

    @abstractmethod
    def maximum_path(self, value: Any, mask: Any, check: bool) -> Any:
        """The drop-in, on tensors of this place."""

    @abstractmethod
    def forced_align(self, log_probs: Any, targets: Any, check: bool) -> Any:
        """The drop-in, on tensors of this place."""

    @abstractmethod
    def rnnt_loss(self, log_probs: Any, labels: Any, frames: Any, lengths: Any, compact: bool) -> Any:
        """Costs, on tensors of this place, of which autograd finds the gradient."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What else a result should say of it."""


class Cuda(Place):
    """The current CUDA device."""

    device = "cuda:0"
    engine = "cuda:0"
    profiled = "CUDA"
    tiny = False

    def synchronize(self) -> None:
        peers.torch_module().cuda.synchronize()

    def flush(self) -> None:
        _buffer(FLUSH_BYTES, self.device).zero_()

    def on_device(self, call: Callable[[], object]) -> float:
        events = peers.torch_module().cuda.Event
        begin, end = events(enable_timing=True), events(enable_timing=True)
        self.synchronize()
        self.flush()
        begin.record()
        answer = call()
        end.record()
        end.synchronize()
        taken = float(begin.elapsed_time(end)) * 1e-3
        del answer
        return taken

    def cycles_per_s(self) -> float:
        properties = peers.torch_module().cuda.get_device_properties(0)
        known = getattr(properties, "clock_rate", 0)  # kHz, in newer versions of torch
        return known * 1e3 if known else nvidia_smi("clocks.max.sm") * 1e6

    def maximum_path(self, value: Any, mask: Any, check: bool) -> Any:
        import alignd_kernels as ak

        return ak.maximum_path(value, mask, check=check)

    def forced_align(self, log_probs: Any, targets: Any, check: bool) -> Any:
        import alignd_kernels as ak

        return ak.forced_align(log_probs, targets, check=check)

    def rnnt_loss(self, log_probs: Any, labels: Any, frames: Any, lengths: Any, compact: bool) -> Any:
        import alignd_kernels as ak

        return ak.rnnt_loss(log_probs, labels, frames, lengths, compact=compact)

    def describe(self) -> dict[str, Any]:
        torch = peers.torch_module()
        properties = torch.cuda.get_device_properties(0)
        return {
            "name": torch.cuda.get_device_name(),
            "capability": ".".join(map(str, torch.cuda.get_device_capability())),
            "multiprocessors": properties.multi_processor_count,
            "memory_bytes": properties.total_memory,
            "l2_bytes": getattr(properties, "L2_cache_size", None),
            "cuda": torch.version.cuda,
        }


class Interpreter(Place):
    """Triton's interpreter with tensors on the CPU: its times mean nothing, but every other line is run."""

    device = "cpu"
    engine = "interpreter"
    profiled = "CPU"
    tiny = True

    def __init__(self) -> None:
        quicken()

    def synchronize(self) -> None:
        return

    def flush(self) -> None:
        return

    def on_device(self, call: Callable[[], object]) -> float:
        return wall_clock(call)

    def cycles_per_s(self) -> float:
        return 1e9

    # The public functions would take the CPU's own kernels for these tensors.
    def maximum_path(self, value: Any, mask: Any, check: bool) -> Any:
        from alignd_kernels.mas.gpu_padded import maximum_path_on_gpu

        return maximum_path_on_gpu(value, mask, None, check)

    def forced_align(self, log_probs: Any, targets: Any, check: bool) -> Any:
        from alignd_kernels.ctc.gpu_padded import forced_align_on_gpu

        return forced_align_on_gpu(log_probs, targets, None, None, 0, 0.0, check)

    def rnnt_loss(self, log_probs: Any, labels: Any, frames: Any, lengths: Any, compact: bool) -> Any:
        from alignd_kernels.transducer.gpu_sum import costs_on_gpu, scatter_on_gpu

        torch = peers.torch_module()
        given = labels, frames.long(), lengths.long()
        sums = costs_on_gpu(log_probs.detach(), *given)
        zeros, ones = torch.zeros_like(log_probs), torch.ones_like(sums.costs)
        slopes = scatter_on_gpu(sums.found, ones, zeros.detach(), *given, sums.statuses)
        linear = (log_probs * slopes).sum()  # has the gradient of the sum of the costs
        return sums.costs + (linear - linear.detach()) / len(sums.costs)

    def describe(self) -> dict[str, Any]:
        return {"name": "Triton's interpreter, no GPU: a rehearsal"}


def place_of(rehearse: bool) -> Place:
    """The CUDA device, or what stands in for it.

    Raises:
        RuntimeError: Triton would interpret the kernels that are to be measured, or run those of a rehearsal.
    """
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if interpreted != rehearse:
        raise RuntimeError(f"TRITON_INTERPRET=1 belongs to a rehearsal and nothing else (rehearse: {rehearse})")
    return Interpreter() if rehearse else Cuda()


def whole_call(place: Place, call: Callable[[], object]) -> float:
    """Seconds until the answer is there: the device is idle before and after, its cache full of something else."""
    place.flush()
    place.synchronize()
    begun = time.perf_counter()
    answer = call()
    place.synchronize()
    taken = time.perf_counter() - begun
    del answer
    return taken


@functools.cache
def _buffer(size: int, device: str) -> Any:
    torch = peers.torch_module()
    return torch.zeros(size, dtype=torch.uint8, device=device)


@functools.cache
def copy_rate(place: Place) -> float:
    """Bytes a second, read and written ones counted, of copying 1 GiB of float32 on the device: the median."""
    torch = peers.torch_module()
    size = COPY_BYTES >> 8 if place.tiny else COPY_BYTES
    source = torch.zeros(size // 4, dtype=torch.float32, device=place.device)
    target = torch.empty_like(source)
    taken = [place.on_device(lambda: target.copy_(source)) for _ in range(COPIES + 2)][2:]
    return 2 * size / statistics.median(taken)


def pinned_rates(place: Place) -> dict[str, float]:
    """Bytes a second from pinned memory to the device and back: what bounds a batch that comes from a host."""
    torch = peers.torch_module()
    size = PINNED_BYTES >> 8 if place.tiny else PINNED_BYTES
    host = torch.zeros(size, dtype=torch.uint8, pin_memory=not place.tiny)
    there = torch.empty(size, dtype=torch.uint8, device=place.device)
    copies = {
        "to_device": lambda: there.copy_(host, non_blocking=True),
        "to_host": lambda: host.copy_(there, non_blocking=True),
    }
    taken = {name: statistics.median([place.on_device(copy) for _ in range(5)]) for name, copy in copies.items()}
    return {name: size / seconds for name, seconds in taken.items()}


@functools.cache
def rates(place: Place) -> Rates:
    """What kernels on this device cannot beat: the measured copy, and a dependent chain at the highest clock."""
    speed = copy_rate(place)
    clock = place.cycles_per_s()
    return Rates(read=speed, write=speed, chain_step=CHAIN_CYCLES / clock if clock else 0.0, cell=0.0)


def nvidia_smi(field: str) -> float:
    """A number that the driver's tool tells; 0 where it does not."""
    command = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
        return float(done.stdout.splitlines()[0])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return 0.0
