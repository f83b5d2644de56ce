"""Best paths and posteriors that the stage `functions` times, on scores from which every backend finds the very path.

Scores lie on a grid whose sums float32 holds exactly; latents lie near the means of their tokens, so that no rounding
of the products decides.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

import alignd_kernels as ak
from alignd_kernels import transducer
from alignd_kernels.dtypes import DType
from alignd_kernels.threads import default_pool
from alignd_kernels.transducer.batch import reduced
from benchmarks import peers as cpu_peers
from benchmarks.cases_latents import LatentInputs, uniform, vits_lattice
from benchmarks.gpu import peers
from benchmarks.gpu.losses import Call, Function, on_both, with_gradient, within
from benchmarks.gpu.place import Place

STEPS = 64
"""To 1, of the grid."""

NONE = "none"


def on_grid(tensor: Any) -> Any:
    """Its values, rounded to the grid."""
    return (tensor * STEPS).round() / STEPS


def log_probs_of(*shape: int) -> Any:
    """Normalised but for the grid, over the last axis."""
    return on_grid(cpu_peers.torch_module().randn(shape).log_softmax(-1))


def transducer_align(place: Place) -> Function:
    torch = cpu_peers.torch_module()
    B, T, U, V = (1, 3, 2, 4) if place.tiny else (16, 250, 60, 32)
    given = log_probs_of(B, T, U + 1, V), torch.randint(1, V, (B, U))

    def on(device: str, align: Callable[..., Any]) -> Call:
        there = [part.to(device) for part in given]
        return lambda: align(*there)

    return Function(f"transducer_align, B={B}, T={T}, U={U}, V={V}", *on_both(place, ak.transducer_align, on), NONE)


def transducer_posteriors(place: Place) -> Function:
    """There is none for tensors: host memory to host memory, as the server calls it."""
    torch = cpu_peers.torch_module()
    B, T, U = (1, 3, 2) if place.tiny else (16, 250, 60)
    arcs = log_probs_of(B, T, U + 1, 2).numpy().reshape(-1)
    frames, labels = np.full(B, T), np.full(B, U)
    batch = reduced(arcs, DType.FLOAT32, np.arange(B) * (2 * T * (U + 1)), frames, labels)

    def on(device: str, posteriors: Callable[..., Any]) -> Call:
        def call() -> Sequence[Any]:
            found = posteriors(batch, device, default_pool())
            return torch.from_numpy(found.posteriors), torch.from_numpy(found.scores)

        return call

    name = f"transducer posteriors from host memory, B={B}, T={T}, U={U}"
    return Function(name, *on_both(place, transducer.posteriors, on), NONE)


def mas_posteriors(place: Place) -> Function:
    torch = cpu_peers.torch_module()
    B, S, T = (1, 2, 5) if place.tiny else (16, 160, 800)
    value = torch.randn(B, S, T)

    def on(device: str, posteriors: Callable[..., Any]) -> Call:
        there = value.to(device)
        mask = torch.ones_like(there)
        return lambda: posteriors(there, mask)

    return Function(f"mas_posteriors, B={B}, S={S}, T={T}", *on_both(place, ak.mas_posteriors, on), NONE)


def ctc_posteriors(place: Place) -> Function:
    """torch's loss with its gradient sums the same lattices, also from both ends."""
    torch = cpu_peers.torch_module()
    T, B, V, L = (6, 1, 4, 2) if place.tiny else (1500, 16, 32, 300)
    log_probs, targets = torch.randn(B, T, V).log_softmax(-1), torch.randint(1, V, (B, L))

    def on(device: str, posteriors: Callable[..., Any]) -> Call:
        there = log_probs.to(device), targets.to(device)
        return lambda: posteriors(*there)

    given, labels = log_probs.transpose(0, 1).to(place.device).requires_grad_(), targets.to(place.device)
    lengths = torch.full((B,), T), torch.full((B,), L)

    def loss(x: Any) -> Any:
        return torch.nn.functional.ctc_loss(x, labels, *lengths, reduction="none")

    name = f"ctc_posteriors, B={B}, T={T}, V={V}, L={L}"
    peer = "torch's ctc_loss with its gradient"
    return Function(name, *on_both(place, ak.ctc_posteriors, on), peer, lambda: with_gradient(loss, given))


def latents(place: Place) -> Function:
    """Beside the lattice as VITS adds it up, stored, and our search of it."""
    B, S, T, C = (1, 2, 5, 3) if place.tiny else (32, 160, 800, 80)
    inputs = LatentInputs(uniform(B, T, S, C), 0)
    tokens = np.arange(T) * S // T
    inputs.z[...] = inputs.mean[:, tokens] + np.float32(0.1) * inputs.z

    def on(device: str, search: Callable[..., Any]) -> Call:
        there = [tensor.to(device) for tensor in inputs.tensors]
        return lambda: (search(*there),)

    moved = copy.copy(inputs)
    moved.tensors, mask = [tensor.to(place.device) for tensor in inputs.tensors], inputs.mask.to(place.device)
    name = f"maximum_path_from_latents, B={B}, S={S}, T={T}, C={C}"
    peer = "VITS's products in torch, our maximum_path"
    theirs = lambda: (place.maximum_path(vits_lattice(moved), mask, True),)  # noqa: E731
    return Function(name, *on_both(place, ak.maximum_path_from_latents, on), peer, theirs)


def attention(place: Place, mode: str, B: int, H: int, S: int, T: int) -> Function:
    """Maps of B items; beside Whisper's DTW, which takes one map of one head."""
    torch = cpu_peers.torch_module()
    maps = on_grid((torch.randn if mode == "dtw" else torch.rand)(B, H, S, T))

    def on(device: str, align: Callable[..., Any]) -> Call:
        given = maps.to(device)

        def call() -> Sequence[Any]:
            found = align(given, mode=mode)
            return found.heads, found.starts, found.ends, found.scores

        return call

    name = f"align_attention, {mode}, B={B}, H={H}, S={S}, T={T}"
    both = on_both(place, ak.align_attention, on)
    if mode != "dtw":
        return Function(name, *both, NONE)
    costs = -maps[:, 0].to(place.device)
    theirs: Call | str
    try:
        warp = peers.whisper_dtw()
        theirs = lambda: [warp(item) for item in costs]  # noqa: E731
    except cpu_peers.Missing as missing:
        theirs = f"missing: {missing}"
    return Function(name, *both, "whisper's dtw_cuda", theirs)


def stepwise_hard(place: Place) -> Function:
    torch = cpu_peers.torch_module()
    B, S, T = (1, 3, 6) if place.tiny else (32, 160, 800)
    energies = torch.randn(B, S, T)

    def on(device: str, hard: Callable[..., Any]) -> Call:
        given = energies.to(device)
        return lambda: (hard(given),)

    loop = within(place, on(place.device, hard_loop))
    name = f"stepwise_hard, B={B}, S={S}, T={T}"
    return Function(name, *on_both(place, ak.stepwise_hard, on), "frame loop in torch", loop)


def hard_loop(energies: Any) -> Any:
    """The walk a frame at a time: int64 [B, T]."""
    torch = cpu_peers.torch_module()
    B, _, T = energies.shape
    moves = (energies.permute(2, 0, 1) <= 0).long().contiguous()
    moves[..., -1] = 0
    token = torch.zeros(B, 1, dtype=torch.int64)
    found = [token]
    for t in range(1, T):
        token = token + moves[t].gather(1, token)
        found.append(token)
    return torch.cat(found, 1)


def alignments(place: Place) -> Iterator[Function]:
    for B, S, T in ((1, 3, 5),) if place.tiny else ((1, 448, 1500), (32, 100, 500)):
        yield attention(place, "dtw", B, 1, S, T)
    for mode in ("mas", "stepwise"):
        yield attention(place, mode, *((1, 2, 3, 5) if place.tiny else (32, 4, 100, 500)))
    for make in (stepwise_hard, latents, transducer_align, mas_posteriors, ctc_posteriors, transducer_posteriors):
        yield make(place)
