"""The same shapes on a CUDA device: the whole call, and the time on the device alone. No case where there is none."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import alignd_kernels as ak
from benchmarks import peers
from benchmarks.case import Case, Contestant
from benchmarks.cases_ctc import CtcInputs, CtcShape, labels_of_padded
from benchmarks.cases_mas import MasInputs, MasShape, paths_of_dense, uniform

GROUP = "CUDA"


def whole_call(call: Callable[[], object]) -> float:
    """Seconds until the answer is there: the device is idle before and after."""
    torch = peers.torch_module()
    torch.cuda.synchronize()
    begun = time.perf_counter()
    answer = call()
    torch.cuda.synchronize()
    taken = time.perf_counter() - begun
    del answer
    return taken


def on_device(call: Callable[[], object]) -> float:
    """Seconds between two CUDA events around the call's launches."""
    torch = peers.torch_module()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    answer = call()
    end.record()
    end.synchronize()
    taken = float(begin.elapsed_time(end)) * 1e-3
    del answer
    return taken


def both_clocks(
    name: str, call: Callable[[Any, bool], Any], paths: Callable[[Any, Any], Any], items: int
) -> list[Contestant]:
    """`call(inputs, check)`: with the check of all items it waits for the device, without it does not."""
    checked, unchecked = (lambda inputs: call(inputs, True)), (lambda inputs: call(inputs, False))
    return [
        Contestant(f"{name}, whole call", "ours", checked, paths, items=items, clock=whole_call),
        Contestant(f"{name}, on the device", "ours", unchecked, items=items, clock=on_device),
    ]


def read_on_device(tensors: dict[int, tuple[Any, ...]]) -> Contestant:
    """The scores summed once: about the least that any kernel does."""
    return Contestant(
        "torch.sum of the scores, on the device", "loss", lambda inputs: tensors[id(inputs)][0].sum(), clock=on_device
    )


def mas_contestants(shape: MasShape, stack: ExitStack, sets: list[MasInputs]) -> list[Contestant]:
    tensors = {id(inputs): tuple(tensor.cuda() for tensor in inputs.tensors()) for inputs in sets}
    stack.callback(tensors.clear)

    def call(inputs: MasInputs, check: bool) -> Any:
        return ak.maximum_path(*tensors[id(inputs)], check=check)

    def paths(answer: Any, inputs: MasInputs) -> Any:
        return paths_of_dense(answer.cpu(), inputs)

    return [*both_clocks("maximum_path: dense", call, paths, len(shape.tokens)), read_on_device(tensors)]


def ctc_contestants(shape: CtcShape, stack: ExitStack, sets: list[CtcInputs]) -> list[Contestant]:
    torch = peers.torch_module()
    tensors = {
        id(inputs): (torch.from_numpy(inputs.log_probs).cuda(), torch.from_numpy(inputs.targets).cuda())
        for inputs in sets
    }
    stack.callback(tensors.clear)

    def call(inputs: CtcInputs, check: bool) -> Any:
        return ak.forced_align(*tensors[id(inputs)], check=check)

    def paths(answer: Any, inputs: CtcInputs) -> Any:
        return labels_of_padded((answer[0].cpu(), None), inputs)

    found = [*both_clocks("forced_align", call, paths, shape.B), read_on_device(tensors)]
    if peers.ctc_loss_bytes(shape.B, shape.T, shape.L) > peers.MOST_BYTES:
        return found
    loss = peers.ctc_loss()
    frames, lengths = torch.full((shape.B,), shape.T), torch.full((shape.B,), shape.L)

    def sum_over_paths(inputs: CtcInputs) -> Any:
        log_probs, targets = tensors[id(inputs)]
        return loss(log_probs.transpose(0, 1), targets, frames, lengths)

    def likelihoods(answer: Any) -> Any:
        return -answer.double().cpu().numpy()

    name = "torch ctc_loss, forward"
    found.append(Contestant(name, "loss", sum_over_paths, log_likelihoods=likelihoods, clock=whole_call))
    return found


def cases() -> Iterator[Case]:
    try:
        if not peers.torch_module().cuda.is_available():
            return
    except peers.Missing:
        return
    for B, T, S in ((32, 800, 160), (32, 2048, 512)):
        shape = uniform(B, T, S)
        yield Case(
            f"cuda-mas-{T}x{S}",
            f"MAS, B={B}, T={T}, S={S}",
            GROUP,
            partial(MasInputs, shape),
            partial(mas_contestants, shape),
            cells=shape.cells,
            device="cuda",
            quick=True,
        )
    for size in (CtcShape(16, 1500, 32, 300), CtcShape(1, 50_000, 32, 25_000), CtcShape(16, 1500, 1024, 300)):
        yield Case(
            f"cuda-ctc-{size.T}x{size.L}-v{size.V}",
            f"CTC, B={size.B}, T={size.T}, V={size.V}, L={size.L}",
            GROUP,
            partial(CtcInputs, size),
            partial(ctc_contestants, size),
            cells=size.cells,
            device="cuda",
        )
