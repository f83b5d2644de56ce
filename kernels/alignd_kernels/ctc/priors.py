"""Label priors: how often a model emits each column at all. CTC models emit blanks far more often than labels, so that
their alignments are peaks of a frame or two; without the prior, labels last about as long as they are heard.

Huang et al. 2024, "Less Peaky and More Accurate CTC Forced Alignment by Label Priors", section 2.
"""

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from alignd_kernels.arrays import check_known_device, host_scores, is_torch, lengths, on_gpu
from alignd_kernels.dtypes import widen
from alignd_kernels.padded import like
from alignd_kernels.ragged import Int64Array

MOST: Final = 1.01
"""Of a column's mean probability, as halves round it."""


def ctc_label_priors(log_probs: Any, input_lengths: Any = None) -> Any:
    """The log of the mean posterior of each column, over all frames of a batch.

    The more frames it is counted on, the better. The paper's models are trained with priors too; those of a model that
    was trained without are counted on what is to be aligned.

    Args:
        log_probs: [B, T, V] or [T, V] log-probabilities, of rows that sum to 1 (a log-softmax), float16, bfloat16,
            float32 or float64, NumPy or torch, on the CPU or a CUDA device, which is waited for. What stands beyond an
            item's frames is ignored.
        input_lengths: integers [B], frames of each item; default T.

    Returns:
        float64 [V], of the caller's kind and device; −inf for columns that have no probability in any frame. Priors of
        several batches are joined by `logaddexp`, weighted by their frames.

    Raises:
        ValueError: wrong shapes or lengths, no frames at all, NaN or +inf in an item's frames, or logarithms of no
            probabilities: a column's mean is above 1.
        TypeError: for dtypes that do not fit.
        NotImplementedError: for tensors that are neither on the CPU nor on a CUDA device.
    """
    shape = tuple(np.shape(log_probs))
    if len(shape) not in (2, 3):
        raise ValueError(f"log_probs must be [batch, frames, vocabulary] or [frames, vocabulary], not of shape {shape}")
    check_known_device(log_probs, "ctc_label_priors")
    if on_gpu(input_lengths):
        input_lengths = input_lengths.cpu()
    frames = lengths(input_lengths, "input_lengths", math.prod(shape[:-2]), shape[-2])
    if not frames.any():
        raise ValueError("a mean over no frames: the batch is empty")
    total: Any = (_sums_there if on_gpu(log_probs) else _sums)(log_probs, frames)
    if total is None:
        raise ValueError("NaN or +inf in log_probs: they must be logs of probabilities")
    mean = total / float(frames.sum())
    if (mean > MOST).any():
        raise ValueError("log_probs are no logs of probabilities: the mean of a column's probabilities is above 1")
    with np.errstate(divide="ignore"):
        return mean.log() if on_gpu(log_probs) else like(log_probs, np.log(mean))


def _sums(log_probs: Any, frames: Int64Array) -> npt.NDArray[np.float64] | None:
    """Of each column's probabilities in all items' frames, float64 [V]; None where one is NaN or infinite."""
    storage, dtype = host_scores(log_probs)
    total = np.zeros(storage.shape[-1])
    for item, T in zip(storage.reshape(-1, *storage.shape[-2:]), frames.tolist()):
        values = widen(item[:T], dtype).astype(np.float64)
        if not (values < np.inf).all():
            return None
        total += np.exp(values).sum(0)
    return total


def _sums_there(log_probs: Any, frames: Int64Array) -> Any:
    """`_sums` of a tensor, on its device.

    Raises:
        TypeError: it is not of a floating-point type.
    """
    if not log_probs.is_floating_point():
        raise TypeError(f"log_probs must be floating-point, not {log_probs.dtype}")
    scores = log_probs.detach()
    total = scores.new_zeros(scores.shape[-1]).double()
    for item, T in zip(scores.reshape(-1, *scores.shape[-2:]), frames.tolist()):
        values = item[:T].double()
        total += values.exp().masked_fill(~(values < np.inf), np.nan).sum(0)
    return None if total.isnan().any() else total


def subtract_label_priors(log_probs: Any, log_priors: Any, prior_scale: float) -> Any:
    """Emissions log_probs − prior_scale · log_priors, for `forced_align`: alignments that are less peaky.

    Rows are no longer normalised, and the scores of paths no longer log-probabilities. A column whose prior is −inf is
    left as it is: nothing is known of it.

    Args:
        log_probs: [..., V], floating-point, NumPy or torch.
        log_priors: [V], as `ctc_label_priors` has them, of the same kind and on the same device.
        prior_scale: how much of the prior is taken off; 0 is nothing, 1 all of it.

    Returns:
        of the shape, kind and dtype of `log_probs`; differentiable where torch is.

    Raises:
        TypeError: `log_probs` are integers, or priors of another kind than they are.
        ValueError: priors of another shape than [V], NaN or +inf among them, a scale that is negative or not finite.
    """
    if is_torch(log_probs) != is_torch(log_priors):
        raise TypeError("log_probs and log_priors must both be NumPy arrays or both be torch tensors")
    dtype: Any = log_probs.dtype if is_torch(log_probs) else np.asarray(log_probs).dtype
    if not (dtype.is_floating_point if is_torch(log_probs) else dtype.kind not in "biu"):
        raise TypeError(f"log_probs must be floating-point, not {dtype}")
    if tuple(np.shape(log_priors)) != tuple(np.shape(log_probs))[-1:]:
        raise ValueError(f"log_priors must be [V], not of shape {tuple(np.shape(log_priors))}")
    if not (np.isfinite(prior_scale) and prior_scale >= 0):
        raise ValueError(f"prior_scale must be finite and at least 0, not {prior_scale}")
    if not (log_priors < np.inf).all():
        raise ValueError("NaN or +inf in log_priors")
    unknown = log_priors == -np.inf
    if is_torch(log_priors):
        off = log_priors.masked_fill(unknown, 0.0) * prior_scale
        return log_probs - off.to(log_probs.dtype)
    off = np.where(unknown, 0.0, log_priors) * prior_scale
    return log_probs - off.astype(log_probs.dtype)
