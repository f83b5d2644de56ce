"""Alignment by padded attention maps, as text-to-speech teachers and speech recognisers hold them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from alignd_kernels.arrays import host_scores, is_torch, lengths, on_gpu
from alignd_kernels.attention.batch import AttentionBatch, AttentionResult, Mode, check_mode
from alignd_kernels.ragged import Int64Array
from alignd_kernels.status import InvalidItemsError, Status


@dataclass(frozen=True, slots=True)
class AttentionAlignments:
    """Arrays of the caller's kind, NumPy or torch; without the axis of items where the argument had none.

    Attributes:
        heads: int32 [B], the head that was aligned.
        focus_rates: float32 [B, H].
        durations: int32 [B, S], frames of each token; 0 in the padding, as in `starts` and `ends`. In mode "dtw" tokens
            may share frames.
        starts: int32 [B, S], first frame of each token.
        ends: int32 [B, S], the frame after each token's last one.
        path: int32 [B, T], the token of each frame, 0 in the padding; None in mode "dtw".
        scores: float64 [B], the path's sum in frame order.
        statuses: int32 [B], `Status` of each item; of one that failed all else is zero, its score NaN.
    """

    heads: Any
    focus_rates: Any
    durations: Any
    starts: Any
    ends: Any
    path: Any
    scores: Any
    statuses: Any


def align_attention(
    attention: Any,
    token_lengths: Any = None,
    frame_lengths: Any = None,
    mode: Mode = "mas",
    *,
    log: bool = False,
    check: bool = True,
) -> AttentionAlignments:
    """Choose the head with the largest focus rate, and align its tokens with frames.

    The focus rate is the mean over frames of the largest value of any token (Ren et al. 2019, "FastSpeech"); of equal
    heads the first is taken. Maps need not sum to one.

    Modes: "mas", the best path in which every token has at least one frame and every frame one token (Kim et al. 2020,
    "Glow-TTS"); "dtw", dynamic time warping, in which tokens may share a frame (as Whisper's word timing); "stepwise",
    the hard walk of He et al. 2019, "stepwise monotonic attention": the values are probabilities to stay; coming from
    token j into frame t ≥ 1 it stays there if value[j, t] > 0.5. Tokens that it never reaches have no frames.

    Args:
        attention: [B, H, S, T] (heads, tokens, frames), or [H, S, T] for one item; float16, bfloat16, float32 or
            float64, NumPy or torch, on CPU or GPU. It is only read, where it lies if frames are contiguous.
        token_lengths: integers [B], tokens of each item; default S. For [H, S, T] one integer.
        frame_lengths: integers [B], frames of each item; default T. For [H, S, T] one integer.
        mode: how the head is aligned.
        log: align by the logarithms of the values; focus rates are of the values as they are.
        check: False leaves out the error for failed items: `statuses` tells them. On a GPU nothing is waited for then,
            and of lengths that lie there those beyond the tensor get `Status.INTERNAL`, no error.

    Returns:
        arrays of the caller's kind, on its device. On a GPU all is queued on the current stream.

    Raises:
        InvalidItemsError: listing every item that has no alignment: no head, token or frame, NaN or +inf in any cell of
            any head, no path of finite score; in mode "mas" more tokens than frames; with `log` a negative value that a
            path can visit; in mode "stepwise" a value outside 0 … 1 that decides.
        ValueError: for a wrong shape, lengths or mode; for `log` in mode "stepwise".
        TypeError: for values that are not floating-point, lengths that are not integers.
        MemoryError: the batch and its scratch do not fit.
    """
    check_mode(mode, log)
    shape = tuple(np.shape(attention))
    if len(shape) not in (3, 4):
        raise ValueError(f"attention must be [batch, heads, tokens, frames] or [heads, tokens, frames], not {shape}")
    single = len(shape) == 3
    if single:
        attention, shape = attention[None], (1, *shape)
        token_lengths, frame_lengths = _one(token_lengths), _one(frame_lengths)
    if on_gpu(attention):
        from alignd_kernels.attention.gpu_padded import align_attention_on_gpu

        found = align_attention_on_gpu(attention, token_lengths, frame_lengths, mode, log=log, check=check)
    else:
        found = _on_cpu(attention, shape, token_lengths, frame_lengths, mode, log=log, check=check)
    return AttentionAlignments(*(array if array is None or not single else array[0] for array in found))


def _one(length: Any) -> Any:
    if length is None or is_torch(length):
        return None if length is None else length.reshape(-1)
    return np.reshape(length, -1)


def _on_cpu(
    attention: Any,
    shape: tuple[int, ...],
    token_lengths: Any,
    frame_lengths: Any,
    mode: Mode,
    *,
    log: bool,
    check: bool,
) -> tuple[Any, ...]:
    """The fields of `AttentionAlignments`, with the axis of items."""
    from alignd_kernels.attention import cpu
    from alignd_kernels.threads import default_pool

    B, H, S, T = shape
    tokens = lengths(token_lengths, "token_lengths", B, S)
    frames = lengths(frame_lengths, "frame_lengths", B, T)
    storage, dtype = host_scores(attention, strided=True)
    flat, (item, head, row) = _where_it_lies(storage)
    pitches = (np.full(B, pitch, np.int64) for pitch in (head, row))
    offsets = np.arange(B, dtype=np.int64) * item
    batch = AttentionBatch(flat, dtype, offsets, np.full(B, H), tokens, frames, mode, log, None, *pitches)
    result = cpu.align(batch, default_pool())
    if check:
        _raise_if_failed(result.statuses.tolist(), batch)
    return tuple(_like(attention, array) for array in _padded(result, tokens, frames, shape, mode))


def _raise_if_failed(statuses: list[int], batch: AttentionBatch) -> None:
    from alignd_kernels.attention import reason

    bad = {index: Status(status) for index, status in enumerate(statuses) if status != Status.OK}
    if bad:
        reasons = {}
        for index, status in bad.items():
            heads, tokens, frames = (int(sizes[index]) for sizes in (batch.heads, batch.tokens, batch.frames))
            reasons[index] = reason(status, heads, tokens, frames, batch.mode)
        raise InvalidItemsError(bad, reasons)


def _where_it_lies(storage: npt.NDArray[np.generic]) -> tuple[npt.NDArray[np.generic], tuple[int, int, int]]:
    """The padded array [B, H, S, T] as a flat buffer, and the elements from an item, a head and a row to the next:
    where it lies if frames are contiguous, as in a slice or with heads before items; else a copy."""
    size = storage.itemsize
    outer = storage.strides[:3]
    if storage.size == 0 or storage.strides[3] != size or min(outer) < 0 or any(stride % size for stride in outer):
        storage = np.ascontiguousarray(storage)
        outer = storage.strides[:3]
    item, head, row = (stride // size for stride in outer)
    B, H, S, T = storage.shape
    reach = (B - 1) * item + (H - 1) * head + (S - 1) * row + T if storage.size else 0
    return np.lib.stride_tricks.as_strided(storage, (reach,), (size,), writeable=False), (item, head, row)


def _padded(
    result: AttentionResult, tokens: Int64Array, frames: Int64Array, shape: tuple[int, ...], mode: Mode
) -> tuple[Any, ...]:
    """The fields of `AttentionAlignments`, with the axis of items."""
    B, H, S, T = shape
    there = np.arange(S) < tokens[:, None]
    starts, ends = np.zeros((2, B, S), np.int32)
    starts[there], ends[there] = result.starts, result.ends
    durations = ends - starts
    path = None
    if mode != "dtw":
        path = np.zeros((B, T), np.int32)
        aligned = (np.arange(T) < frames[:, None]) & (result.statuses == Status.OK)[:, None]
        path[aligned] = np.repeat(np.tile(np.arange(S, dtype=np.int32), B), durations.reshape(-1))
    rates = result.focus_rates.reshape(B, H)
    return result.heads, rates, durations, starts, ends, path, result.scores, result.statuses


def _like(model: Any, array: Any) -> Any:
    if array is None or not is_torch(model):
        return array
    import torch

    return torch.as_tensor(array)
