"""Attention maps aligned by DTW, beside the loop that Whisper's word timing runs on the CPU.

That package brings a whole recogniser, so a plain Numba loop of the same kind stands in for its `dtw_cpu`: frame by
frame over all tokens, with costs and moves of every cell in float32 arrays a row and a column larger than the map.
"""

# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import numba
import numpy as np
import numpy.typing as npt

import alignd_kernels as ak
from alignd_kernels.threads import default_pool
from benchmarks.case import Case, Contestant, IntArray, Target, Verdict, Work, rounding_slack

if TYPE_CHECKING:  # older revisions, which --compare measures too, have no such maps: their cases must still load
    from alignd_kernels.attention import AttentionBatch, AttentionResult

GROUP = "attention"
OURS = "attention.align, DTW"
STAND_IN = "Numba loop as Whisper's"


@dataclasses.dataclass(frozen=True)
class AttentionShape:
    """B items of H heads, S tokens and T frames."""

    B: int
    H: int
    S: int
    T: int

    @property
    def cells(self) -> int:
        return self.B * self.S * self.T

    @property
    def work(self) -> Work:
        """Every head read, spans and rates written; a diagonal waits for the one before."""
        written = self.B * 4 * (2 * self.S + self.H + 1)
        return Work(self.cells * self.H * 4, written, self.S + self.T - 1, self.cells)


class AttentionInputs:
    """Maps [B, H, S, T] as Whisper's are when they are aligned: normalised, of either sign."""

    def __init__(self, shape: AttentionShape, seed: int) -> None:
        self.shape = shape
        size = shape.B, shape.H, shape.S, shape.T
        self.maps = np.random.default_rng(seed).standard_normal(size, dtype=np.float32)
        self.chosen = self.maps.max(2).mean(2, dtype=np.float64).argmax(1)

    @property
    def buffers(self) -> list[npt.NDArray[Any]]:
        return [self.maps]

    def judge(self, item: int, path: IntArray) -> Verdict:
        """Of starts and ends, one after the other, which tell a path's every cell."""
        starts, ends = path[: self.shape.S], path[self.shape.S :]
        follow = np.isin(starts[1:] - ends[:-1], (-1, 0)).all() and (starts < ends).all()
        if not follow or starts[0] != 0 or ends[-1] != self.shape.T:
            return Verdict(-np.inf, 0.0, "spans do not lead from the first cell to the last")
        rows = self.maps[item, self.chosen[item]]
        own = [row[start:end] for row, start, end in zip(rows, starts, ends)]
        terms = np.concatenate(own).astype(np.float64)
        return Verdict(float(terms.sum()), rounding_slack(terms))

    def batch(self) -> AttentionBatch:
        from alignd_kernels.attention import AttentionBatch

        shape, each = self.shape, np.ones(self.shape.B, np.int64)
        offsets = np.arange(shape.B, dtype=np.int64) * (shape.H * shape.S * shape.T)
        sizes = shape.H * each, shape.S * each, shape.T * each
        return AttentionBatch(self.maps.reshape(-1), ak.DType.FLOAT32, offsets, *sizes, "dtw")


@numba.njit(nogil=True, cache=True)
def warp_by_loops(scores):  # type: ignore[no-untyped-def]
    """The path's cells [2, steps], from the last one back."""
    S, T = scores.shape
    best = np.full((S + 1, T + 1), -np.inf, np.float32)
    move = np.zeros((S + 1, T + 1), np.float32)
    best[0, 0] = 0
    for t in range(1, T + 1):
        for s in range(1, S + 1):
            slanted, above, before = best[s - 1, t - 1], best[s - 1, t], best[s, t - 1]
            if slanted > above and slanted > before:
                largest, move[s, t] = slanted, 0
            elif above > slanted and above > before:
                largest, move[s, t] = above, 1
            else:
                largest, move[s, t] = before, 2
            best[s, t] = largest + scores[s - 1, t - 1]
    path = np.empty((2, S + T), np.int64)
    s, t, steps = S, T, 0
    while s > 0 and t > 0:
        path[0, steps], path[1, steps] = s - 1, t - 1
        steps += 1
        taken = move[s, t]
        s -= taken != 2
        t -= taken != 1
    return path[:, :steps]


def spans_of(answer: AttentionResult, inputs: AttentionInputs) -> list[IntArray]:
    shape = inputs.shape.B, inputs.shape.S
    return list(np.concatenate((answer.starts.reshape(shape), answer.ends.reshape(shape)), axis=1))


def spans_of_cells(answer: list[IntArray], inputs: AttentionInputs) -> list[IntArray]:
    found = []
    for tokens, frames in answer:
        starts, ends = np.full(inputs.shape.S, inputs.shape.T), np.zeros(inputs.shape.S, np.int64)
        np.minimum.at(starts, tokens, frames)
        np.maximum.at(ends, tokens, frames + 1)
        found.append(np.concatenate((starts, ends)))
    return found


def contestants(shape: AttentionShape, stack: ExitStack, sets: list[AttentionInputs]) -> list[Contestant]:
    from alignd_kernels import attention

    del stack
    batches = {id(inputs): inputs.batch() for inputs in sets}

    def by_loops(inputs: AttentionInputs) -> list[Any]:
        return [warp_by_loops(maps[head]) for maps, head in zip(inputs.maps, inputs.chosen)]

    return [
        Contestant(
            OURS,
            "ours",
            lambda inputs: attention.align(batches[id(inputs)], pool=default_pool()),
            spans_of,
            work=shape.work,
            items=shape.B,
        ),
        Contestant(STAND_IN, "peer", by_loops, spans_of_cells, items=shape.B),
    ]


def case(name: str, title: str, shape: AttentionShape, **options: Any) -> Case:
    make, rows = partial(AttentionInputs, shape), partial(contestants, shape)
    return Case(name, title, GROUP, make, rows, cells=shape.cells, targets=(Target(OURS, 0.5, STAND_IN),), **options)


def cases() -> Iterator[Case]:
    """The stand-in is given the head that ours has to find."""
    yield case("attention-dtw-448x1500", "one map, S=448, T=1500", AttentionShape(1, 1, 448, 1500), quick=True)
    yield case("attention-dtw-100x500", "32 maps, S=100, T=500", AttentionShape(32, 1, 100, 500))
    yield case("attention-dtw-20-heads", "20 heads, S=448, T=1500", AttentionShape(1, 20, 448, 1500))
