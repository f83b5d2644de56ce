"""The backend of a family that a device runs: `alignd_kernels.<family>.cpu` or `.gpu`."""

import importlib
from types import ModuleType
from typing import Any

from alignd_server.device import Device


def backend(family: str, device: Device) -> ModuleType:
    """Imported when first used: the GPU's needs torch and Triton."""
    return importlib.import_module(f"alignd_kernels.{family}.{'gpu' if device.torch_device else 'cpu'}")


def align(family: str, batch: Any, device: Device, alone: bool) -> Any:
    """One launch. `alone` keeps to the calling thread, or to a stream of its own."""
    kernels = backend(family, device)
    if device.torch_device:
        return kernels.align(batch, device.torch_device)
    return kernels.align(batch, None if alone else device.pool)
