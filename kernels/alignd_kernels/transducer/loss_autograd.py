"""The transducer loss as a function that torch differentiates. Imports torch."""

from typing import Any

import numpy as np
import torch

from alignd_kernels.arrays import host_scores
from alignd_kernels.differentiable_once import differentiable_once
from alignd_kernels.padded import where_it_lies
from alignd_kernels.ragged import Int64Array, offsets_of
from alignd_kernels.threads import default_pool
from alignd_kernels.transducer import cpu_sum, dense_gradient
from alignd_kernels.transducer.batch import TransducerBatch
from alignd_kernels.transducer.loss import Sizes


class TransducerLoss(torch.autograd.Function):  # type: ignore[misc]
    """Costs [N] of log-probs [N, T, U, V] or [nodes, V].

    The lattice is gone with the forward pass: what is kept for the backward one are the derivatives by the arcs that
    paths can take, two for each node, which it brings to where the log-probs are.
    """

    @staticmethod
    def forward(
        ctx: Any, log_probs: Any, labels: Any, sizes: Sizes, modified: bool, fastemit_lambda: float, wanted: bool
    ) -> Any:
        ctx.sizes, ctx.modified = sizes, modified
        ctx.shape, ctx.dtype = log_probs.shape, log_probs.dtype
        if log_probs.device.type != "cpu":
            return _forward_on_gpu(ctx, log_probs, fastemit_lambda, wanted)
        batch = _batch(log_probs, sizes, modified)
        found = cpu_sum.costs(batch, default_pool(), fastemit_lambda=fastemit_lambda, gradients=wanted)
        if found.gradients is not None:
            ctx.save_for_backward(torch.from_numpy(found.gradients))
        return torch.from_numpy(found.costs)

    @staticmethod
    def backward(ctx: Any, gradient: Any) -> tuple[Any, None, None, None, None, None]:
        with torch.no_grad():
            if gradient.device.type == "cpu":
                (arcs,) = ctx.saved_tensors
                found = _dense(arcs, gradient.to(arcs.dtype), ctx.sizes, ctx.shape, ctx.dtype)
            else:
                found = _backward_on_gpu(ctx, gradient)
        return differentiable_once(found, "rnnt_loss"), None, None, None, None, None


def _batch(log_probs: Any, sizes: Sizes, modified: bool) -> TransducerBatch:
    """The items where they lie."""
    storage, dtype = host_scores(log_probs, strided=True)
    flat, pitches = where_it_lies(storage)
    N = len(sizes.frames)
    if len(pitches) == 2:
        node_pitches = np.full(N, pitches[0], np.int64)
        frame_pitches, offsets = (sizes.labels + 1) * pitches[0], _first_nodes(sizes) * pitches[0]
    else:
        node_pitches, frame_pitches = np.full(N, pitches[2], np.int64), np.full(N, pitches[1], np.int64)
        offsets = np.arange(N, dtype=np.int64) * pitches[0]
    return TransducerBatch(
        flat,
        dtype,
        offsets,
        sizes.frames,
        sizes.labels,
        np.full(N, storage.shape[-1], np.int64),
        frame_pitches,
        node_pitches,
        sizes.targets,
        sizes.target_offsets,
        np.full(N, sizes.blank, np.int32),
        modified,
    )


def _first_nodes(sizes: Sizes) -> Int64Array:
    """Of items end to end, int64 [N]."""
    return offsets_of(sizes.frames * (sizes.labels + 1))[:-1]


def _dense(arcs: Any, factors: Any, sizes: Sizes, shape: Any, dtype: Any) -> Any:
    """The gradient by log-probs of this shape and type, in host memory, from that by the arcs [nodes · 2]."""
    if arcs.dtype != dtype:  # halves, rounded here; the kernel then only moves their bits
        counts = torch.from_numpy(2 * sizes.frames * (sizes.labels + 1))
        arcs = (arcs * factors.repeat_interleave(counts)).to(dtype).view(torch.int16)
        factors = torch.ones(len(factors), dtype=torch.int16)
    # Zeroed by the system page by page, where anything is written: of a large vocabulary that is a part only.
    gradients = np.zeros(int(np.prod(shape)), arcs.numpy().dtype)
    V = shape[-1]
    if len(shape) == 2:
        offsets, pitches = _first_nodes(sizes) * V, (0, V)
    else:
        item = shape[1] * shape[2] * V
        offsets, pitches = np.arange(shape[0], dtype=np.int64) * item, (shape[2] * V, V)
    dense_gradient.place(
        arcs.numpy(), factors.contiguous().numpy(), gradients, offsets, sizes.frames, sizes.labels, pitches,
        sizes.targets, sizes.target_offsets, sizes.blank, default_pool(),
    )  # fmt: skip
    return torch.from_numpy(gradients).view(dtype).view(shape)


def _on_gpu(sizes: Sizes, shape: Any, device: Any) -> tuple[Any, Any, Any]:
    """Targets, frames and labels as tensors there."""
    targets = torch.from_numpy(sizes.targets)
    if len(shape) == 4:
        targets = targets.view(shape[0], shape[2] - 1)
    return targets.to(device), torch.from_numpy(sizes.frames).to(device), torch.from_numpy(sizes.labels).to(device)


def _largest(sizes: Sizes) -> tuple[int, int]:
    """Frames and labels, so that nothing has to look them up on the device."""
    return int(sizes.frames.max(initial=0)), int(sizes.labels.max(initial=0))


def _forward_on_gpu(ctx: Any, log_probs: Any, fastemit_lambda: float, wanted: bool) -> Any:
    from alignd_kernels.transducer.gpu_sum import costs_on_gpu

    readable = log_probs.contiguous() if log_probs.dim() == 2 or log_probs.stride(-1) != 1 else log_probs
    targets, frames, labels = _on_gpu(ctx.sizes, ctx.shape, log_probs.device)
    sums = costs_on_gpu(
        readable, targets, frames, labels, ctx.sizes.blank, modified=ctx.modified, fastemit_lambda=fastemit_lambda,
        gradients=wanted, largest=_largest(ctx.sizes),
    )  # fmt: skip
    if sums.found is not None:
        ctx.save_for_backward(sums.found, sums.statuses, targets, frames, labels)
    return sums.costs


def _backward_on_gpu(ctx: Any, gradient: Any) -> Any:
    from alignd_kernels.transducer.gpu_sum import scatter_on_gpu

    arcs, statuses, targets, frames, labels = ctx.saved_tensors
    gradients = torch.zeros(ctx.shape, dtype=ctx.dtype, device=gradient.device)
    return scatter_on_gpu(
        arcs, gradient.to(arcs.dtype), gradients, targets, frames, labels, statuses, ctx.sizes.blank,
        modified=ctx.modified, largest=_largest(ctx.sizes),
    )  # fmt: skip
