"""CTC forced alignment: from short utterances to two hours in one item, beside the packages that align recordings."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

import alignd_kernels as ak
from alignd_kernels import ctc
from alignd_kernels.ctc.batch import CtcBatch, CtcResult
from alignd_kernels.threads import default_pool
from benchmarks import peers
from benchmarks.case import Case, Contestant, IntArray, Verdict, Work, rounding_slack

GROUP = "CTC"
LINE_BYTES = 64
MOST_PEER_CELLS = 3_000_000_000  # states × frames, about 10 s of the fastest peer


@dataclasses.dataclass(frozen=True)
class CtcShape:
    """B items of T frames, V columns (blank is 0) and L labels, all of the same size."""

    B: int
    T: int
    V: int
    L: int

    @property
    def cells(self) -> int:
        """States × frames that a legal path can visit: each of 2L + 1 states has a window of about T − L + 1 frames."""
        return self.B * (2 * self.L + 1) * (self.T - self.L + 1)

    def work(self, inputs: CtcInputs, *, padded: bool) -> Work:
        """The cache lines that hold a wanted column; int32 states, durations and float32 frame scores written, for the
        drop-in int64 labels and scores."""
        lines = {0} | {int(label) * 4 // LINE_BYTES for label in np.unique(inputs.targets)}
        read = self.B * self.T * min(self.V * 4, len(lines) * LINE_BYTES)
        written = self.B * (self.T * 12 if padded else self.T * 8 + self.L * 4)
        return Work(read, written, self.T, self.cells)


class CtcInputs:
    """Log-probs and targets of one batch."""

    def __init__(self, shape: CtcShape, seed: int) -> None:
        self.shape = shape
        rng = np.random.default_rng(seed)
        logits = rng.standard_normal((shape.B, shape.T, shape.V), dtype=np.float32)
        logits -= np.log(np.exp(logits).sum(2, keepdims=True))
        self.log_probs = logits
        self.targets = rng.integers(1, shape.V, (shape.B, shape.L)).astype(np.int64)

    @property
    def buffers(self) -> list[npt.NDArray[Any]]:
        return [self.log_probs]

    def item(self, index: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Log-probs [T, V] and targets [L]."""
        return self.log_probs[index], self.targets[index]

    def judge(self, item: int, path: IntArray) -> Verdict:
        """Of the label of each frame."""
        log_probs, targets = self.item(item)
        if len(path) != len(log_probs):
            return Verdict(-np.inf, 0.0, "another number of frames")
        starts = np.flatnonzero(np.concatenate(([True], path[1:] != path[:-1])))
        said = path[starts]
        if not np.array_equal(said[said != 0], targets):
            return Verdict(-np.inf, 0.0, "its labels are not the targets")
        terms = log_probs[np.arange(len(path)), path].astype(np.float64)
        return Verdict(float(terms.sum()), rounding_slack(terms))

    def batch(self) -> CtcBatch:
        B, T, V, L = self.shape.B, self.shape.T, self.shape.V, self.shape.L
        items = np.arange(B, dtype=np.int64)
        return CtcBatch(
            log_probs=self.log_probs.reshape(-1),
            dtype=ak.DType.FLOAT32,
            offsets=items * (T * V),
            frames=np.full(B, T, np.int64),
            vocabulary=np.full(B, V, np.int64),
            pitches=np.full(B, V, np.int64),
            targets=self.targets.astype(np.int32).reshape(-1),
            target_offsets=items * L,
            target_lengths=np.full(B, L, np.int64),
            blanks=np.zeros(B, np.int32),
            star_scores=np.zeros(B, np.float32),
        )


def labels_of_states(answer: CtcResult, inputs: CtcInputs) -> list[IntArray]:
    """State 2i + 1 is label i, an even one blank."""
    states = answer.paths.reshape(inputs.shape.B, inputs.shape.T)
    return [labels_of_path(path, targets) for path, targets in zip(states, inputs.targets)]


def labels_of_path(path: IntArray, targets: npt.NDArray[np.int64]) -> IntArray:
    """From states [T]: the label of each frame, 0 for blank."""
    return np.where(path % 2 == 1, targets[path // 2 - (path == 2 * len(targets))], 0)


def labels_of_padded(answer: tuple[Any, Any], inputs: CtcInputs) -> list[IntArray]:
    del inputs
    return [np.asarray(path) for path in answer[0]]


def contestants(shape: CtcShape, stack: ExitStack, sets: list[CtcInputs]) -> list[Contestant]:
    del stack
    batches = {id(inputs): inputs.batch() for inputs in sets}
    return [
        Contestant(
            "ctc.align: states, durations, scores",
            "ours",
            lambda inputs: ctc.align(batches[id(inputs)], pool=default_pool()),
            labels_of_states,
            work=shape.work(sets[0], padded=False),
            items=shape.B,
        ),
        Contestant(
            "forced_align: labels, scores",
            "ours",
            lambda inputs: ak.forced_align(inputs.log_probs, inputs.targets),
            labels_of_padded,
            work=shape.work(sets[0], padded=True),
            items=shape.B,
        ),
        forced_aligner_peer(shape),
        torchaudio_peer(shape, sets),
        ctc_loss_peer(shape, sets),
        ddtw_peer(shape, sets),
    ]


def too_slow(shape: CtcShape) -> str:
    """Why a peer is not asked, at its pace; empty if it is."""
    return f"{shape.cells:.2g} states would take minutes" if shape.cells > MOST_PEER_CELLS else ""


def forced_aligner_peer(shape: CtcShape) -> Contestant:
    name = "ctc-forced-aligner's core"
    try:
        align = peers.ctc_forced_aligner()
    except peers.Missing as missing:
        return Contestant(name, "peer", lambda _: None, skip=f"missing: {missing}")
    return Contestant(
        name,
        "peer",
        lambda inputs: [align(x, y) for x, y in zip(inputs.log_probs, inputs.targets)],
        lambda answer, _: answer,
        items=shape.B,
        skip=peers.forced_aligner_crash(shape.T, shape.L) or too_slow(shape),
    )


def torchaudio_peer(shape: CtcShape, sets: list[CtcInputs]) -> Contestant:
    name = "torchaudio.forced_align"
    try:
        align = peers.torchaudio_forced_align()
        torch = peers.torch_module()
    except peers.Missing as missing:
        return Contestant(name, "peer", lambda _: None, skip=f"missing: {missing}")
    tensors = {id(s): (torch.from_numpy(s.log_probs), torch.from_numpy(s.targets.astype(np.int32))) for s in sets}

    def call(inputs: CtcInputs) -> list[Any]:
        log_probs, targets = tensors[id(inputs)]
        return [align(log_probs[b : b + 1], targets[b : b + 1])[0] for b in range(shape.B)]

    return Contestant(
        name,
        "peer",
        call,
        lambda answer, _: [path[0].numpy() for path in answer],
        items=shape.B,
        skip=peers.torchaudio_crash(shape.T, shape.L) or too_slow(shape),
    )


def ctc_loss_peer(shape: CtcShape, sets: list[CtcInputs]) -> Contestant:
    name = "torch ctc_loss, forward"
    try:
        loss, torch = peers.ctc_loss(), peers.torch_module()
    except peers.Missing as missing:
        return Contestant(name, "loss", lambda _: None, skip=f"missing: {missing}")
    frames, lengths = torch.full((shape.B,), shape.T), torch.full((shape.B,), shape.L)
    tensors = {
        id(s): (torch.from_numpy(s.log_probs).transpose(0, 1), torch.from_numpy(s.targets), frames, lengths)
        for s in sets
    }
    needed = peers.ctc_loss_bytes(shape.B, shape.T, shape.L)
    return Contestant(
        name,
        "loss",
        lambda inputs: loss(*tensors[id(inputs)]),
        log_likelihoods=lambda answer: -answer.double().numpy(),
        items=shape.B,
        skip=f"needs {needed / 1e9:.0f} GB" if needed > peers.MOST_BYTES else "",
    )


def ddtw_peer(shape: CtcShape, sets: list[CtcInputs]) -> Contestant:
    """Only its value is asked for; its gradient would come on top."""
    name = "ddtw CTC, forward"
    try:
        loss, torch = peers.ddtw_ctc(), peers.torch_module()
    except peers.Missing as missing:
        return Contestant(name, "loss", lambda _: None, skip=f"missing: {missing}")
    tensors = {id(s): (torch.from_numpy(s.log_probs), torch.from_numpy(s.targets)) for s in sets}
    needed = peers.ddtw_ctc_bytes(shape.B, shape.T, shape.V, shape.L)
    return Contestant(
        name,
        "loss",
        lambda inputs: loss(*tensors[id(inputs)]),
        items=shape.B,
        skip=f"needs about {needed / 1e9:.0f} GB" if needed > peers.MOST_BYTES else "",
    )


def case(name: str, title: str, shape: CtcShape, **options: Any) -> Case:
    return Case(
        name, title, GROUP, partial(CtcInputs, shape), partial(contestants, shape), cells=shape.cells, **options
    )


def cases() -> Iterator[Case]:
    """All of the family, small to large where time per cell is compared."""
    growth = {"growth": "CTC, V=32"}
    yield case("ctc-tiny", "3,000 items of T=100, V=32, L=20", CtcShape(3000, 100, 32, 20), **growth)
    yield case("ctc-1500x300", "B=16, T=1500, V=32, L=300", CtcShape(16, 1500, 32, 300), quick=True, **growth)
    book = CtcShape(1, 50_000, 32, 25_000)
    yield case("ctc-50000x25000", "one item, T=50,000, V=32, L=25,000", book, memory=True, **growth)
    hours = CtcShape(1, 360_000, 32, 100_000)
    yield case("ctc-360000x100000", "two hours: T=360,000, V=32, L=100,000", hours, memory=True, **growth)
    yield case("ctc-1500x300-v191", "B=16, T=1500, V=191, L=300", CtcShape(16, 1500, 191, 300))
    yield case("ctc-1500x300-v1024", "B=16, T=1500, V=1024, L=300", CtcShape(16, 1500, 1024, 300))
