"""The CPU kernels beside their peers: `python tests/benchmarks/bench_cpu.py`.

Peers: monotonic-alignment-search (Cython) and the C++ core of ctc-forced-aligner, as packaged under that name on PyPI;
a peer that is not installed is said to be missing. All run in turn in every round, and the figures are medians over the
rounds, so that what else the machine does falls on all of them. Results are compared before anything is timed.
"""

import ctypes
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

import alignd_kernels as ak
from alignd_kernels import ctc, mas
from alignd_kernels.ctc.batch import CtcBatch
from alignd_kernels.mas.batch import MasBatch
from alignd_kernels.threads import default_pool

ROUNDS = 31
FloatArray = npt.NDArray[np.float32]
Contestants = dict[str, Callable[[], object]]


def mas_contestants(B: int, S: int, T: int) -> Contestants:
    value = np.random.default_rng(0).standard_normal((B, S, T), dtype=np.float32)
    mask = np.ones_like(value)
    offsets, tokens, frames = np.arange(B) * S * T, np.full(B, S), np.full(B, T)
    batch = MasBatch(value.reshape(-1), ak.DType.FLOAT32, offsets, tokens, frames, frames)
    contestants: Contestants = {
        "mas.align (durations)": lambda: mas.align(batch, pool=default_pool()),
        "maximum_path, NumPy (dense path)": lambda: ak.maximum_path(value, mask),
    }
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("monotonic_alignment_search") is None:
        print("monotonic-alignment-search, or the torch that it needs, is not installed: no comparison")
        return contestants
    import monotonic_alignment_search
    import torch

    tensor, tensor_mask = torch.from_numpy(value), torch.from_numpy(mask)
    contestants["maximum_path, torch (dense path)"] = lambda: ak.maximum_path(tensor, tensor_mask)
    contestants["peer: monotonic-alignment-search"] = lambda: monotonic_alignment_search.maximum_path(
        tensor, tensor_mask
    )
    theirs = contestants["peer: monotonic-alignment-search"]()
    assert np.array_equal(np.asarray(theirs), ak.maximum_path(value, mask)), "the peer's paths differ"
    return contestants


def ctc_contestants(B: int, T: int, V: int, L: int) -> Contestants:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((B, T, V), dtype=np.float32)
    log_probs: FloatArray = x - np.log(np.exp(x).sum(2, keepdims=True))
    targets = rng.integers(1, V, (B, L))
    items = np.arange(B)
    batch = CtcBatch(
        log_probs.reshape(-1),
        ak.DType.FLOAT32,
        items * T * V,
        np.full(B, T),
        np.full(B, V),
        np.full(B, V),
        targets.astype(np.int32).reshape(-1),
        items * L,
        np.full(B, L),
        np.zeros(B, np.int32),
        np.zeros(B, np.float32),
    )
    contestants: Contestants = {
        "ctc.align (states, scores)": lambda: ctc.align(batch, pool=default_pool()),
        "forced_align, NumPy": lambda: ak.forced_align(log_probs, targets),
    }
    peer = ctc_peer()
    if peer is None:
        print("ctc-forced-aligner is not installed: no comparison")
        return contestants
    contestants["peer: ctc-forced-aligner's C++"] = lambda: [peer(log_probs[b], targets[b]) for b in range(B)]
    ours = ctc.align(batch).scores
    theirs = np.array([peer(log_probs[b], targets[b]).sum(dtype=np.float64) for b in range(B)])
    assert (ours >= theirs - 1e-2).all(), "the peer found better paths"
    return contestants


def ctc_peer() -> Callable[[FloatArray, npt.NDArray[np.int64]], FloatArray] | None:
    """Its compiled function for one item [T, V] with blank 0, returning the score of each frame.

    It is loaded by itself: the package around it imports an audio and an inference library.
    """
    found = importlib.util.find_spec("ctc_forced_aligner")
    if found is None or found.origin is None:
        return None
    library = ctypes.CDLL(str(next(Path(found.origin).parent.glob("align_ops*"))))

    def align(log_probs: FloatArray, targets: npt.NDArray[np.int64]) -> FloatArray:
        T, V = log_probs.shape
        paths, scores = np.zeros(T, np.int64), np.zeros(T, np.float32)
        pointers = [ctypes.c_void_p(array.ctypes.data) for array in (log_probs, targets, paths, scores)]
        library.align_sequences(*pointers, 1, T, V, len(targets), ctypes.c_int64(0))
        return scores

    return align


def compare(title: str, contestants: Contestants) -> None:
    """Print the median of each contestant and how many times as long the peer takes."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for run in range(ROUNDS + 2):
        for name, call in contestants.items():
            begun = time.perf_counter()
            call()
            if run >= 2:
                times[name].append((time.perf_counter() - begun) * 1e3)
    peer = next((statistics.median(times[name]) for name in times if name.startswith("peer")), None)
    print(f"\n{title}; {default_pool().threads} threads, {ROUNDS} rounds")
    for name, taken in times.items():
        median = statistics.median(taken)
        ratio = "" if peer is None or name.startswith("peer") else f"   peer takes {peer / median:5.1f} times as long"
        print(f"  {name:34} {median:8.2f} ms (least {min(taken):.2f}){ratio}")


if __name__ == "__main__":
    ak.warm_up([ak.DType.FLOAT32])
    print(f"Kernels compiled in {ak.compile_seconds():.1f} s; Python {sys.version.split()[0]}, NumPy {np.__version__}")
    compare("MAS, B=32, T=800, S=160, float32", mas_contestants(32, 160, 800))
    compare("MAS, B=32, T=2048, S=512, float32", mas_contestants(32, 512, 2048))
    compare("CTC, B=16, T=1500, V=32, L=300, float32", ctc_contestants(16, 1500, 32, 300))
