"""What others offer on a GPU. None is part of this repository: what is missing is said in the table.

- super-monotonic-align: one Triton kernel for a padded batch. It overwrites `value`, so each call gets a copy, made
  outside the clock.
- torchaudio: `forced_align`, which takes one item; a batch is as many calls. And `rnnt_loss`, which takes at most
  2³¹ log-probs.
- whisper: `dtw_cuda`, one map a call, whose path it follows on the host. The package wants tiktoken besides.
- warp-rnnt: its `rnnt_loss`. It is built with nvcc on the machine itself, `pip wheel --no-deps --no-build-isolation`
  in its checkout, and given among `--wheels`.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import peers
from benchmarks.cases_ctc import CtcInputs, CtcShape
from benchmarks.gpu.place import Place, place_of

FOLDER_VARIABLE = "ALIGND_BENCHMARK_PEERS"
"""Names the folder of `--peers` to the stages' processes."""

PACKAGES = "super_monotonic_align", "torchaudio", "warp_rnnt", "whisper"
TRIAL_S = 25.0


def search(folder: Path) -> list[Path]:
    """Folders that Python has to search for the peers' packages: the checkouts in `folder`, or itself if it is one."""
    candidates = [folder, *sorted(path for path in folder.iterdir() if path.is_dir())]
    return [path for path in candidates if any((path / name / "__init__.py").is_file() for name in PACKAGES)]


def make_importable() -> None:
    """Put the checkouts of the folder that was handed over behind what is installed."""
    folder = os.environ.get(FOLDER_VARIABLE)
    if folder:
        sys.path += [str(path) for path in search(Path(folder)) if str(path) not in sys.path]


def _module(name: str) -> Any:
    make_importable()
    package = name.split(".", maxsplit=1)[0]
    if importlib.util.find_spec(package) is None:
        where = os.environ.get(FOLDER_VARIABLE)
        raise peers.Missing(f"no {package} in {where}" if where else "not installed, and no folder of --peers")
    return peers.optional(name)


def super_monotonic_align() -> Callable[[Any, Any], Any]:
    """(value, mask), tensors [B, S, T] → path float32 [B, S, T]; `value` is overwritten.

    Raises:
        Missing: it is not there, or does not load.
    """
    function: Callable[[Any, Any], Any] = _module("super_monotonic_align").maximum_path
    return function


def torchaudio_forced_align() -> Callable[[Any, Any], Any]:
    """(log_probs [1, T, V], targets int32 [1, L]) → (labels [1, T], scores [1, T]).

    Raises:
        Missing: it is not there, or does not load.
    """
    function: Callable[[Any, Any], Any] = _module("torchaudio.functional").forced_align
    return function


def warp_rnnt_loss() -> Callable[..., Any]:
    """(log_probs [N, T, U, V], labels int32 [N, U − 1], frames int32 [N], label lengths int32 [N]) → costs [N].

    Raises:
        Missing: it is not there, or does not load.
    """
    function: Callable[..., Any] = _module("warp_rnnt").rnnt_loss
    return function


def warp_rnnt_compact_loss() -> Callable[..., Any]:
    """The same for items end to end.

    Raises:
        Missing: it is not there, or does not load.
    """
    return functools.partial(warp_rnnt_loss(), compact=True)


def torchaudio_rnnt_loss() -> Callable[..., Any]:
    """As `warp_rnnt_loss`, of torchaudio.

    Raises:
        Missing: it is not there, or does not load.
    """
    function = getattr(_module("torchaudio.functional"), "rnnt_loss", None)
    if function is None:
        raise peers.Missing("this torchaudio has no rnnt_loss")

    def loss(log_probs: Any, labels: Any, frames: Any, lengths: Any) -> Any:
        return function(log_probs, labels, frames, lengths, blank=0, reduction="none", fused_log_softmax=False)

    return loss


def whisper_dtw() -> Callable[[Any], Any]:
    """costs [S, T] → tokens and frames of the path [2, steps], on the host.

    Raises:
        Missing: it is not there, or does not load.
    """
    function: Callable[[Any], Any] = _module("whisper.timing").dtw_cuda
    return function


def crash_of_torchaudio(shape: CtcShape, place: Place) -> str:
    """What becomes of one call at this size, in a process of its own; empty if it answers.

    Its table of T × (2L + 1) back-pointers lies on the host, where versions differ in the size at which it overflows.
    """
    sizes = [str(size) for size in (shape.B, shape.T, shape.V, shape.L)]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.gpu.peers", *(["--rehearse"] if place.tiny else []), *sizes],
            capture_output=True,
            text=True,
            timeout=TRIAL_S,
        )
    except subprocess.TimeoutExpired:
        return f"takes more than {TRIAL_S:.0f} s"
    if done.returncode == 0:
        return ""
    last = (done.stderr.splitlines() or [""])[-1]
    return f"crashes (signal {-done.returncode})" if done.returncode < 0 else f"fails: {last[:120]}"


def _trial(arguments: list[str]) -> None:
    rehearse, sizes = arguments[0] == "--rehearse", [int(argument) for argument in arguments if argument.isdigit()]
    place, inputs = place_of(rehearse), CtcInputs(CtcShape(*sizes), 0)
    torch = peers.torch_module()
    log_probs = torch.from_numpy(inputs.log_probs[:1]).to(place.device)
    targets = torch.from_numpy(inputs.targets[:1]).int().to(place.device)
    torchaudio_forced_align()(log_probs, targets)
    place.synchronize()


if __name__ == "__main__":
    _trial(sys.argv[1:])
