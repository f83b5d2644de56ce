"""Best paths of transducers: reduced and dense joint log-probs. No package that we know has this; beside it stands what
one would write without: NumPy over the diagonals of the whole batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

import alignd_kernels as ak
from alignd_kernels.threads import default_pool
from benchmarks.case import Case, Contestant, IntArray, Verdict, Work, rounding_slack

if TYPE_CHECKING:  # older revisions, which --compare measures too, have no transducers: their cases must still load
    from alignd_kernels.transducer.batch import TransducerBatch

GROUP = "transducer"
LINE_BYTES = 64
MOST_SCRIPT_BYTES = 2 << 30


@dataclasses.dataclass(frozen=True)
class TransducerShape:
    """B items of T frames, U labels and V columns (blank is 0), all of the same size; V = 2 is the reduced form."""

    B: int
    T: int
    U: int
    V: int = 2
    modified: bool = False

    @property
    def cells(self) -> int:
        """Nodes that a path can visit."""
        span = self.T - self.U + 1 if self.modified else self.T
        return self.B * span * (self.U + 1)

    def work(self, *, padded: bool) -> Work:
        """The cache lines that hold blank and label of a node; frames written for each label, and durations if asked
        for. A row, a diagonal or in the modified topology a frame, waits for the one before."""
        lines = min(self.V * 4, 2 * LINE_BYTES)
        written = self.B * (self.U * 4 * (2 if padded else 1) + 8)
        return Work(self.cells * lines, written, self.T + (0 if self.modified else self.U), self.cells)


class TransducerInputs:
    """Joint log-probs [B, T, U + 1, V] and labels of one batch."""

    def __init__(self, shape: TransducerShape, seed: int) -> None:
        self.shape = shape
        rng = np.random.default_rng(seed)
        size = shape.B, shape.T, shape.U + 1, shape.V
        self.log_probs = rng.standard_normal(size, dtype=np.float32)
        self.log_probs -= 3.0
        self.targets = rng.integers(1, shape.V, (shape.B, shape.U)).astype(np.int32)

    @property
    def buffers(self) -> list[npt.NDArray[Any]]:
        return [self.log_probs]

    def arcs(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Blanks [B, T, U + 1] and labels [B, T, U]."""
        columns = np.broadcast_to(self.targets[:, None, :, None], (*self.log_probs.shape[:2], self.shape.U, 1))
        labels = np.take_along_axis(self.log_probs[:, :, :-1], columns, 3)
        return self.log_probs[..., 0], labels[..., 0]

    def judge(self, item: int, path: IntArray) -> Verdict:
        """Of the frame in which each label is emitted."""
        T, U, modified = self.shape.T, self.shape.U, self.shape.modified
        if len(path) != U or path[0] < 0 or path[-1] >= T or (np.diff(path) < int(modified)).any():
            return Verdict(-np.inf, 0.0, "labels are not emitted in order within the frames")
        # Where each arc begins: frame, position, column; in path order by the labels emitted and the frames gone by.
        frames = np.setdiff1d(np.arange(T), path) if modified else np.arange(T)
        before = np.searchsorted(path, frames, side="left" if modified else "right")
        begins = np.concatenate(
            [
                np.stack([path, np.arange(U), self.targets[item]], axis=1),
                np.stack([frames, before, np.zeros(len(frames), np.int64)], axis=1),
            ]
        )
        t, u, column = begins[np.lexsort((begins[:, 1], begins[:, 0]))].T
        terms = self.log_probs[item, t, u, column].astype(np.float64)
        return Verdict(float(terms.sum()), rounding_slack(terms))

    def batch(self) -> TransducerBatch:
        from alignd_kernels.transducer.batch import TransducerBatch

        B, T, U, V = self.shape.B, self.shape.T, self.shape.U, self.shape.V
        items = np.arange(B, dtype=np.int64)
        each = np.ones(B, np.int64)
        return TransducerBatch(
            log_probs=self.log_probs.reshape(-1),
            dtype=ak.DType.FLOAT32,
            offsets=items * (T * (U + 1) * V),
            frames=T * each,
            labels=U * each,
            vocabulary=V * each,
            frame_pitches=(U + 1) * V * each,
            node_pitches=V * each,
            targets=self.targets.reshape(-1),
            target_offsets=items * U,
            blanks=np.zeros(B, np.int32),
            modified=self.shape.modified,
        )


def by_diagonals(inputs: TransducerInputs) -> npt.NDArray[np.int64]:
    """Emission frames [B, U] by NumPy, standard topology: nodes of equal t + u of all items at once."""
    B, T, U = inputs.shape.B, inputs.shape.T, inputs.shape.U
    blanks, labels = inputs.arcs()
    position = np.arange(U + 1)
    V = np.full((B, U + 1), -np.inf, np.float32)
    V[:, 0] = 0
    by_label = np.zeros((T + U, B, U + 1), np.bool_)
    for n in range(1, T + U):
        stay = (n - 1 - position >= 0) & (n - 1 - position < T - 1)
        move = (n - position[1:] >= 0) & (n - position[1:] < T)
        by_blank = np.full((B, U + 1), -np.inf, np.float32)
        by_blank[:, stay] = V[:, stay] + blanks[:, (n - 1 - position)[stay], position[stay]]
        moved = np.full((B, U + 1), -np.inf, np.float32)
        moved[:, 1:][:, move] = V[:, :-1][:, move] + labels[:, (n - position[1:])[move], position[:-1][move]]
        by_label[n] = moved > by_blank
        V = np.where(by_label[n], moved, by_blank)
    found = np.zeros((B, U), np.int64)
    u = np.full(B, U)
    items = np.arange(B)
    for n in range(T + U - 1, 0, -1):
        emitted = by_label[n, items, u]
        u = u - emitted
        found[items[emitted], u[emitted]] = n - 1 - u[emitted]
    return found


def rows_of(answer: Any, inputs: TransducerInputs) -> list[IntArray]:
    frames = answer[0] if isinstance(answer, tuple) else answer.emission_frames
    return list(frames.reshape(inputs.shape.B, inputs.shape.U))


def contestants(shape: TransducerShape, stack: ExitStack, sets: list[TransducerInputs]) -> list[Contestant]:
    from alignd_kernels import transducer

    del stack
    batches = {id(inputs): inputs.batch() for inputs in sets}
    needed = 4 * shape.B * (shape.T * (shape.U + 1) * 2 + (shape.T + shape.U) * (shape.U + 1) // 4)
    skip = "standard topology only" if shape.modified else ""
    return [
        Contestant(
            "transducer.align: emission frames",
            "ours",
            lambda inputs: transducer.align(batches[id(inputs)], pool=default_pool()),
            rows_of,
            work=shape.work(padded=False),
            items=shape.B,
        ),
        Contestant(
            "transducer_align: and durations",
            "ours",
            lambda inputs: ak.transducer_align(inputs.log_probs, inputs.targets, modified=shape.modified),
            rows_of,
            work=shape.work(padded=True),
            items=shape.B,
        ),
        Contestant(
            "NumPy, diagonal by diagonal",
            "peer",
            by_diagonals,
            lambda answer, _: list(answer),
            items=shape.B,
            skip=skip or (f"needs about {needed / 1e9:.0f} GB" if needed > MOST_SCRIPT_BYTES else ""),
        ),
    ]


def case(name: str, title: str, shape: TransducerShape, **options: Any) -> Case:
    return Case(
        name,
        title,
        GROUP,
        partial(TransducerInputs, shape),
        partial(contestants, shape),
        cells=shape.cells,
        **options,
    )


def cases() -> Iterator[Case]:
    """All of the family, small to large where time per cell is compared."""
    growth = {"growth": "transducer, reduced"}
    tiny = TransducerShape(2000, 100, 15)
    yield case("transducer-tiny", "2,000 items of T=100, U=15, reduced", tiny, **growth)
    middle = TransducerShape(32, 400, 80)
    yield case("transducer-400x80", "B=32, T=400, U=80, reduced", middle, quick=True, **growth)
    large = TransducerShape(16, 1500, 300)
    yield case("transducer-1500x300", "B=16, T=1500, U=300, reduced", large, **growth)
    long = TransducerShape(1, 20_000, 3_000)
    yield case("transducer-20000x3000", "one item, T=20,000, U=3,000, reduced", long, memory=True, **growth)
    yield case(
        "transducer-400x80-modified",
        "B=32, T=400, U=80, reduced, one symbol a frame",
        TransducerShape(32, 400, 80, modified=True),
    )
    dense = TransducerShape(8, 150, 40, 500)
    yield case("transducer-150x40-v500", "B=8, T=150, V=500, U=40, dense", dense)
