"""What all families' small cases share: scores that every accumulator sums exactly, and what counts as equal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from alignd_kernels.ctc.batch import CtcBatch
from alignd_kernels.dtypes import DType
from alignd_kernels.mas.batch import MasBatch
from alignd_kernels.ragged import Int64Array, offsets_of
from benchmarks.cases_mas import stored

Scores = npt.NDArray[np.float32]
Targets = npt.NDArray[np.int32]


class WrongAnswerError(Exception):
    """A kernel's answer is not the reference's."""


def grid(rng: np.random.Generator, shape: tuple[int, ...]) -> Scores:
    """Multiples of 1/4, whose sums every type of accumulator holds exactly: the reference's very path is the answer."""
    return (rng.integers(-6, 1, shape) / 4).astype(np.float32)


def joined(items: Sequence[Scores], dtype: DType) -> tuple[npt.NDArray[Any], Int64Array]:
    """The items end to end, and where each begins, int64 [B + 1]."""
    values = stored(np.concatenate([item.reshape(-1) for item in items]), dtype)
    return values, offsets_of(np.array([item.size for item in items], np.int64))


def lengths(items: Sequence[Scores], axis: int) -> Int64Array:
    return np.array([item.shape[axis] for item in items], np.int64)


def mas_batch(items: Sequence[Scores], dtype: DType) -> MasBatch:
    """Of items [S, T]."""
    values, starts = joined(items, dtype)
    tokens, frames = lengths(items, 0), lengths(items, 1)
    return MasBatch(values, dtype, starts[:-1], tokens, frames, frames)


def ctc_batch(items: Sequence[tuple[Scores, Targets]], dtype: DType, star_score: float) -> CtcBatch:
    """Of log-probs [T, V] and targets [L]; the blank is column 0."""
    emissions = [item for item, _ in items]
    values, starts = joined(emissions, dtype)
    frames, columns = lengths(emissions, 0), lengths(emissions, 1)
    labels = np.array([len(targets) for _, targets in items], np.int64)
    targets = np.concatenate([targets for _, targets in items])
    blanks, stars = np.zeros(len(items), np.int32), np.full(len(items), star_score, np.float32)
    first = offsets_of(labels)[:-1]
    return CtcBatch(values, dtype, starts[:-1], frames, columns, columns, targets, first, labels, blanks, stars)


def same(name: str, found: object, expected: object) -> None:
    """Raises:
    WrongAnswerError: they are not equal; NaN equals NaN.
    """
    if not np.array_equal(np.asarray(found), np.asarray(expected), equal_nan=True):
        raise WrongAnswerError(f"{name}: {found}, not {expected}")


def near(name: str, found: object, expected: object) -> None:
    """Within a hundredth of a percent, where the kernels promise far less at these sizes.

    Raises:
        WrongAnswerError: they are not.
    """
    if not np.allclose(np.asarray(found), np.asarray(expected), 1e-4, 1e-5, equal_nan=True):
        raise WrongAnswerError(f"{name}: {found}, not {expected}")
