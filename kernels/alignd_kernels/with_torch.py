"""torch, for what cannot do without it: whatever has gradients."""

from typing import Any


def torch_module() -> Any:
    """torch, imported when this is called.

    Raises:
        ImportError: it is not installed; the message says what brings it.
    """
    try:
        import torch
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ImportError("this needs PyTorch: pip install 'alignd-kernels[gpu]'") from error
    return torch
