"""The devices that kernels run on, and how --device names them."""

import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

from alignd_kernels.threads import WorkerPool

INTERPRETER = "interpreter"
"""The Triton kernels on the CPU, statement by statement: how the GPU's path is tested without one."""


@dataclass(frozen=True, slots=True)
class Device:
    """Where kernels run.

    Attributes:
        id: as --device names it: cpu, cuda:0.
        name: the product's.
        backend: numba or triton.
        torch_device: what torch calls it; None for the Numba kernels.
        memory_bytes: what a launch may use beside input and output.
        pool: threads of the Numba kernels; None for Triton.
    """

    id: str
    name: str
    backend: str
    torch_device: str | None
    memory_bytes: int
    pool: WorkerPool | None

    @property
    def light_batches(self) -> int:
        """Batches of small requests that run at a time. On a GPU the copies of one go on beside the kernels of another;
        the CPU's kernels share all its threads."""
        return 2 if self.torch_device else 1

    def scratch_bytes(self, total: int, largest: int, alone: bool) -> int:
        """What a launch needs beside input and output, given the sum over its items and the largest of them: on the CPU
        a thread's scratch is used again for its next item."""
        if self.pool is None:
            return total
        return min(total, largest * (1 if alone else self.pool.threads))


def find_devices(wanted: str, threads: int | None = None, memory_bytes: int | None = None) -> list[Device]:
    """The devices that `wanted` names.

    Args:
        wanted: auto (CUDA where there is one, else the CPU), cpu, cuda (all), cuda:N, or interpreter (tests).
        threads: of the CPU's kernels; all that this process may use by default.
        memory_bytes: of each device; half of what is free by default.

    Raises:
        ValueError: for a device that is not there, or a word that names none.
    """
    if wanted == "auto":
        return _cuda_devices(memory_bytes) or [_cpu(threads, memory_bytes)]
    if wanted == "cpu":
        return [_cpu(threads, memory_bytes)]
    if wanted == INTERPRETER:
        if os.environ.get("TRITON_INTERPRET") != "1":
            raise ValueError("--device interpreter needs TRITON_INTERPRET=1 in the environment")
        return [Device(INTERPRETER, "Triton interpreter", "triton", "cpu", _free_memory(memory_bytes), None)]
    if wanted != "cuda" and not (wanted.startswith("cuda:") and wanted[5:].isdigit()):
        raise ValueError(f"device {wanted}: there are auto, cpu, cuda and cuda:N")
    found = _cuda_devices(memory_bytes)
    devices = found if wanted == "cuda" else [device for device in found if device.id == wanted]
    if not devices:
        have = (
            ", ".join(device.id for device in found) or "no CUDA device (or torch, of alignd-server[gpu], is missing)"
        )
        raise ValueError(f"device {wanted}: this machine has {have}; cpu runs everywhere")
    return devices


def _cuda_devices(memory_bytes: int | None) -> list[Device]:
    try:
        import torch
        import triton  # noqa: F401
    except ImportError:
        return []
    if not torch.cuda.is_available():
        return []
    return [
        Device(
            f"cuda:{index}",
            torch.cuda.get_device_name(index),
            "triton",
            f"cuda:{index}",
            memory_bytes or torch.cuda.mem_get_info(index)[0] // 2,
            None,
        )
        for index in range(torch.cuda.device_count())
    ]


def _cpu(threads: int | None, memory_bytes: int | None) -> Device:
    pool = WorkerPool(threads)
    return Device("cpu", _processor(), "numba", None, _free_memory(memory_bytes), pool)


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def _free_memory(wanted: int | None) -> int:
    if wanted:
        return wanted
    available: int = psutil.virtual_memory().available
    return min(available, _container_memory()) // 2


def _container_memory() -> int:
    """What a control group leaves, which the system's count of free memory does not know."""
    try:
        limit, used = (int(Path("/sys/fs/cgroup", name).read_text()) for name in ("memory.max", "memory.current"))
    except (OSError, ValueError):  # no control groups, or "max"
        return sys.maxsize
    return max(0, limit - used)
