"""Posteriors of transducers on padded batches, and on packed ones, as training code holds them."""

from typing import Any

import numpy as np
import numpy.typing as npt

from alignd_kernels.arrays import check_known_device, of_lists, on_gpu
from alignd_kernels.padded import like, raise_if_failed
from alignd_kernels.ragged import offsets_of
from alignd_kernels.transducer.batch import TransducerBatch
from alignd_kernels.transducer.padded import padded_batch, reason_of


def transducer_posteriors(
    log_probs: Any,
    targets: Any = None,
    input_lengths: Any = None,
    target_lengths: Any = None,
    blank: int = 0,
    *,
    modified: bool = False,
    check: bool = True,
) -> tuple[Any, ...]:
    """The probability that a path visits a node, over all paths of each item's targets through joint log-probs.

    A path's weight is the exponential of the sum of its log-probs; in node (t, u) it is in frame t and has emitted u
    labels. Graves 2012, "Sequence Transduction with Recurrent Neural Networks", section 2.4; the modified topology:
    Tripathi et al. 2019, "Monotonic Recurrent Neural Network Transducer". Computed in float32 (float64 for float64).

    Args:
        log_probs: joint log-probs [B, T, U + 1, V], float16, bfloat16, float32 or float64, NumPy or torch, on the CPU
            or a CUDA device; or packed, [sum of T · (U + 1) over the items, V]: the items' [T, U + 1, V] end to end.
            Only read, where they lie if columns are contiguous. Rows need not be normalised. What no path can take is
            ignored, NaN included.
        targets: integers [B, U], packed [sum of U], without blanks. None: `log_probs` are reduced to the log-probs of
            blank and of the next label, V = 2.
        input_lengths: integers [B], frames of each item; default T. Packed items need them.
        target_lengths: integers [B], targets of each item, 0 included; default U. Packed items need them.
        blank: its column.
        modified: one symbol a frame: a label too goes on to the next frame.
        check: False leaves out the error for failed items and returns the statuses as well; on a CUDA device nothing
            is waited for then, but for lengths of packed items there, and lengths there that are out of range give
            `Status.INTERNAL`.

    Returns:
        posteriors [B, T, U + 1], of packed items [sum of T · (U + 1)], float32 (float64 for float64), of the caller's
        kind and device; 0 in the padding. Those of a frame sum to 1 and, but in the modified topology, the labels that
        are emitted in it on average. Log-likelihoods, float64 [B]: the log of the sum over all paths. With
        `check=False` also the `Status` of each item, int32 [B]; a failed item has posteriors of 0 and a log-likelihood
        of NaN.

    Raises:
        InvalidItemsError: listing every item that has no path: no frames, a target that is blank or out of range, in
            the modified topology more targets than frames, NaN or +inf in a log-prob that a path can take, no path of
            finite score. On a GPU, no path's log-likelihood may be below about −93 million.
        ValueError: for wrong shapes, lengths or blank.
        TypeError: for dtypes that do not fit.
        NotImplementedError: for tensors that are neither on the CPU nor on a CUDA device.
        MemoryError: what is needed beside the arguments cannot be had.
    """
    targets = of_lists(targets, "targets")
    check_known_device(log_probs, "transducer_posteriors")
    if on_gpu(log_probs):
        from alignd_kernels.transducer.gpu_sum_padded import transducer_posteriors_on_gpu

        return transducer_posteriors_on_gpu(
            log_probs, targets, input_lengths, target_lengths, blank, modified=modified, check=check
        )
    from alignd_kernels.threads import default_pool
    from alignd_kernels.transducer import cpu_sum

    batch = padded_batch(log_probs, targets, input_lengths, target_lengths, blank, modified)
    result = cpu_sum.posteriors(batch, default_pool())
    if check:
        raise_if_failed(result.statuses.tolist(), lambda index, status: reason_of(batch, index, status))
    nodes = result.posteriors
    if np.ndim(log_probs) == 4:
        nodes = _padded(batch, nodes, tuple(np.shape(log_probs)[:3]))
    found = nodes, result.scores, result.statuses
    return tuple(like(log_probs, array) for array in found[: 2 if check else 3])


def _padded(
    batch: TransducerBatch, nodes: npt.NDArray[np.floating], shape: tuple[int, int, int]
) -> npt.NDArray[np.floating]:
    """The items' [T, U + 1], end to end, in an array of this shape [B, frames, nodes], zero elsewhere."""
    if nodes.size == np.prod(shape):  # nothing is padding
        return nodes.reshape(shape)
    found = np.zeros(shape, nodes.dtype)
    starts = offsets_of(batch.frames * (batch.labels + 1)).tolist()
    for b, (T, U) in enumerate(zip(batch.frames.tolist(), batch.labels.tolist())):
        found[b, :T, : U + 1] = nodes[starts[b] : starts[b + 1]].reshape(T, U + 1)
    return found
