"""The ragged batch of attention maps, and what is found in them."""

from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
import numpy.typing as npt

from alignd_kernels.dtypes import DType
from alignd_kernels.ragged import Buffers, Int64Array

Mode = Literal["mas", "dtw", "stepwise"]
MODES: Final[tuple[Mode, ...]] = get_args(Mode)


@dataclass(frozen=True, slots=True)
class AttentionBatch:
    """Attention maps of B items; item b is a tensor [heads[b], tokens[b], frames[b]] inside `values`.

    Attributes:
        values: 1-D, of `dtype.storage`; or several such, `sources` then names the one of each item.
        dtype: type of the values.
        offsets: int64 [B], index in its buffer of each item's cell (0, 0, 0).
        heads: int64 [B], H of each item.
        tokens: int64 [B], S of each item.
        frames: int64 [B], T of each item.
        mode: how the chosen head is aligned: "mas" (every token has a frame, every frame one token), "dtw" (tokens may
            share a frame) or "stepwise" (a walk by the probabilities to stay).
        log: align by the logarithm of the values; not for "stepwise".
        sources: int64 [B], index in `values` of each item's buffer; None for one buffer.
        head_pitches: int64 [B], elements from a head to the next; None where heads follow each other without gaps.
        row_pitches: int64 [B], elements from a token's row to the next; frames are contiguous. None for rows without
            gaps.
    """

    values: Buffers
    dtype: DType
    offsets: Int64Array
    heads: Int64Array
    tokens: Int64Array
    frames: Int64Array
    mode: Mode = "mas"
    log: bool = False
    sources: Int64Array | None = None
    head_pitches: Int64Array | None = None
    row_pitches: Int64Array | None = None

    def __len__(self) -> int:
        return len(self.tokens)


def check_mode(mode: str, log: bool) -> None:
    """Raises:
    ValueError: there is no such mode, or it takes no logarithms.
    """
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(map(repr, MODES))}, not {mode!r}")
    if mode == "stepwise" and log:
        raise ValueError('mode "stepwise" reads the values as probabilities to stay: it takes no log=True')


@dataclass(frozen=True, slots=True)
class AttentionResult:
    """Alignments of an `AttentionBatch`. What belongs to a failed item is zero, its score NaN.

    A token's duration is its end less its start. In mode "dtw" tokens may share a frame, and the sum of durations may
    exceed T; a token that a stepwise walk has not reached starts and ends at T.

    Attributes:
        heads: int32 [B], the head that was aligned: the one of the largest focus rate, of equals the first.
        focus_rates: float32, the items' [H] end to end: the mean over frames of the largest value of any token.
        starts: int32, the items' [S] end to end: the first frame of each token.
        ends: int32, the items' [S] end to end: the frame after each token's last one.
        scores: float64 [B], the path's sum along the path in float64, rounded once to the accumulator's type.
        statuses: int32 [B], `Status` of each item.
        kernel_ns: time in the kernels, copies excluded.
    """

    heads: npt.NDArray[np.int32]
    focus_rates: npt.NDArray[np.float32]
    starts: npt.NDArray[np.int32]
    ends: npt.NDArray[np.int32]
    scores: npt.NDArray[np.float64]
    statuses: npt.NDArray[np.int32]
    kernel_ns: int
