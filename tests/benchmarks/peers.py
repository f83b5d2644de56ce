"""The other packages: how each is loaded, and what it can be asked.

A peer that is not installed or does not load is `Missing`, with the reason, which the table prints; the run goes on.

- monotonic-alignment-search: `maximum_path` of Glow-TTS in Cython, [B, S, T].
- monotonic-align: the same of VITS, [B, T, S].
- ddtw: differentiable DTW. With the steps of monotonic alignment and its hard minimum, the gradient of its loss is the
  path: a peer for dense MAS. Its CTC is the sum over all paths, so a loss, beside `torch.nn.functional.ctc_loss`.
- ctc-forced-aligner: the compiled core alone; the package around it imports an audio and an inference library.
- torchaudio: `forced_align`, one item a call; `rnnt_loss`.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

MOST_BYTES = 4 << 30
"""A peer that would allocate more for one call is skipped."""

STUBS = {"libcudart.so.13": "libcudart.so.13 { global: *; };", "libc10_cuda.so": "", "libtorch_cuda.so": ""}


class Missing(Exception):  # noqa: N818 -- an outcome that the table prints, not an error
    """A peer that cannot be asked; the message says why."""


def optional(name: str) -> Any:
    """The module of this name.

    Raises:
        Missing: it is not installed, or does not load.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise Missing(f"not installed ({error})") from error
    except Exception as error:
        raise Missing(f"does not load: {type(error).__name__}: {error}") from error


@functools.cache
def torch_module() -> Any:
    """torch, with as many threads as ours."""
    from alignd_kernels.threads import available_cpus

    torch = optional("torch")
    torch.set_num_threads(available_cpus())
    return torch


def monotonic_alignment_search() -> Callable[[Any, Any], Any]:
    """(value, mask), tensors [B, S, T] → path [B, S, T]."""
    torch_module()
    function: Callable[[Any, Any], Any] = optional("monotonic_alignment_search").maximum_path
    return function


def monotonic_align() -> Callable[[Any, Any], Any]:
    """(value, mask), tensors [B, T, S] → path [B, T, S]."""
    torch_module()
    function: Callable[[Any, Any], Any] = optional("monotonic_align").maximum_path
    return function


def ddtw_monotonic() -> Callable[[Any], Any]:
    """Tensor [B, T, S] of equal lengths → path [B, T, S], as the gradient of the hard minimum."""
    torch = torch_module()
    loss = optional("ddtw.ddtw").dDTW(
        min_function="hardmin",
        step_sizes=[[1, 0], [1, 1]],
        global_step_weights=[1.0, 1.0],
        normalization="none",
        backend="cpu_numba",
    )

    def align(value: Any) -> Any:
        costs = torch.neg(value).requires_grad_()
        loss(C=costs).backward()
        return costs.grad

    return align


def ddtw_bytes(B: int, T: int, S: int, steps: int) -> int:
    """What ddtw allocates: costs, accumulated costs, and per step a gradient and a weight, in float32, each twice."""
    return B * T * S * 4 * 2 * (2 + 2 * steps)


def ddtw_ctc() -> Callable[[Any, Any], Any]:
    """(log_probs [B, T, V], targets [B, L]) → mean loss over items and labels, a scalar."""
    torch_module()
    loss: Callable[[Any, Any], Any] = optional("ddtw").CTC(backend="cpu_numba")
    return loss


def ddtw_ctc_bytes(B: int, T: int, V: int, L: int) -> int:
    """Its costs are the sum over V of a product that it makes first, for every frame and state."""
    return B * T * (2 * L + 1) * V * 4


def ctc_loss() -> Callable[[Any, Any, Any, Any], Any]:
    """(log_probs [T, B, V], targets [B, L], frames [B], lengths [B]) → loss [B]: minus the log of all paths' sum."""
    functional = torch_module().nn.functional
    return functools.partial(functional.ctc_loss, reduction="none")


def ctc_loss_bytes(B: int, T: int, L: int) -> int:
    """torch keeps a float32 for every state of every frame."""
    return B * T * (2 * L + 1) * 4


@functools.cache
def ctc_forced_aligner() -> Callable[[npt.NDArray[np.float32], npt.NDArray[np.int64]], npt.NDArray[np.int64]]:
    """(log_probs [T, V], targets [L]), C-contiguous, blank 0 → label of each frame [T]."""
    found = importlib.util.find_spec("ctc_forced_aligner")
    if found is None or found.origin is None:
        raise Missing("not installed")
    core = next(Path(found.origin).parent.glob("align_ops*"), None)
    if core is None:
        raise Missing("its compiled core is not in the package")
    library = ctypes.CDLL(str(core))
    library.align_sequences.restype = None

    def align(log_probs: npt.NDArray[np.float32], targets: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        T, V = log_probs.shape
        path, scores = np.zeros(T, np.int64), np.zeros(T, np.float32)
        pointers = [ctypes.c_void_p(array.ctypes.data) for array in (log_probs, targets, path, scores)]
        library.align_sequences(*pointers, 1, T, V, len(targets), ctypes.c_int64(0))
        return path

    return align


def forced_aligner_crash(T: int, L: int) -> str:
    """Why ctc-forced-aligner's core crashes on an item; empty if it does not.

    It keeps 2 bits for each state of a band, and counts them in 32-bit integers.
    """
    states = (2 * L + 2) * (T - L)
    return _overflow(states, states / 4)


def torchaudio_crash(T: int, L: int) -> str:
    """Why torchaudio 2.11 crashes on an item; empty if it does not.

    It keeps a byte for each state of each frame, and a segmentation fault comes between 2.12e9 and 2.16e9 of them, for
    T=46,000 … 47,000 with L=23,000 as for T=90,000 with L=12,000.
    """
    states = (2 * L + 1) * T
    return _overflow(states, states)


def _overflow(count: int, size: float) -> str:
    if count < 2**31:
        return ""
    return f"crashes: {count:.2g} back-pointers ({size / 1e9:.1f} GB), which overflow a 32-bit index"


@functools.cache
def torchaudio_forced_align() -> Callable[[Any, Any], Any]:
    """(log_probs [1, T, V], targets int32 [1, L]) → (labels [1, T], scores [1, T])."""
    function: Callable[[Any, Any], Any] = _torchaudio_functional().forced_align
    return function


def torchaudio_rnnt_loss() -> Callable[..., Any]:
    """(logits or log-probs [N, T, U, V], labels int32 [N, U - 1], frames, labels' lengths, …) → costs."""
    function: Callable[..., Any] = _torchaudio_functional().rnnt_loss
    return function


def _torchaudio_functional() -> Any:
    if torch_module().version.cuda is None:
        _load_stubs()
    return optional("torchaudio.functional")


def _load_stubs() -> None:
    """Let torchaudio's extension load beside a CPU torch: it links CUDA's libraries even for what runs on a CPU."""
    folder = Path(sys.prefix) / "torchaudio-stub"
    folder.mkdir(exist_ok=True)
    source = Path(__file__).with_name("torchaudio_stub.c")
    for name, symbol_versions in STUBS.items():
        library = folder / name
        if not library.exists():
            script = folder / f"{name}.map"
            script.write_text(symbol_versions)
            command = ["cc", "-shared", "-fPIC", "-w", f"-Wl,-soname,{name}", "-o", str(library), str(source)]
            if symbol_versions:
                command.append(f"-Wl,--version-script={script}")
            try:
                subprocess.run(command, check=True, capture_output=True, text=True)
            except (OSError, subprocess.CalledProcessError) as error:
                raise Missing(f"its stand-ins for CUDA's libraries need a C compiler ({error})") from error
        # Loaded first, they are what the loader finds under these names.
        ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
