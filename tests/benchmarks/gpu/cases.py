"""The shapes by which GPU kernels are compared, each by two clocks, beside the peers that a GPU has.

MAS: the benchmark of super-monotonic-align (its `test.py`): B=16, S tokens, T=4·S frames, float32, full masks. CTC: a
batch of utterances and one long recording. `real_shapes` has what a server sees.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np

from alignd_kernels import ctc
from alignd_kernels.ctc import gpu as ctc_gpu
from alignd_kernels.ctc.batch import CtcBatch, CtcResult
from alignd_kernels.mas import gpu as mas_gpu
from alignd_kernels.mas.batch import MasBatch
from alignd_kernels.threads import default_pool
from benchmarks import peers as cpu_peers
from benchmarks.case import CHAIN, READ_ONCE, Case, Contestant, IntArray, Target, Work
from benchmarks.cases_ctc import CtcInputs, CtcShape, labels_of_padded, labels_of_path
from benchmarks.cases_mas import MasInputs, MasShape, absent, durations_and_path, paths_end_to_end, uniform
from benchmarks.gpu import peers
from benchmarks.gpu.place import ON_DEVICE, WHOLE_CALL, Place, rates, whole_call

MAS, CTC = "MAS on the GPU", "CTC on the GPU"
DURATIONS, DENSE = "launch: durations", "maximum_path: dense"
STATES, LABELS = "launch: states, durations, scores", "forced_align: labels, scores"
SUPER, TORCHAUDIO = "super-monotonic-align", "torchaudio.forced_align"
TWIN = f"alignd on the CPU, {WHOLE_CALL}"

MAS_TARGETS: dict[int, tuple[Target, ...]] = {
    512: (Target(DURATIONS, 0.15e-3),),
    1024: (Target(DURATIONS, 3, READ_ONCE),),
    2048: (Target(DURATIONS, 3, READ_ONCE), Target(DURATIONS, 1 / 50, SUPER), Target(DENSE, 1 / 20, SUPER)),
}
TINY = 512
"""A rehearsal's text is so many times shorter."""


def by_both_clocks(place: Place, row: Contestant, unchecked: Callable[[Any], object] | None = None) -> list[Contestant]:
    """The same contestant twice, of which the first is judged.

    Args:
        unchecked: what the device's clock times instead of `row.call`: without waiting for the items' statuses.
    """
    host = dataclasses.replace(row, name=f"{row.name}, {WHOLE_CALL}", by=WHOLE_CALL, clock=partial(whole_call, place))
    device = dataclasses.replace(
        row,
        name=f"{row.name}, {ON_DEVICE}",
        by=ON_DEVICE,
        clock=place.on_device,
        call=unchecked or row.call,
        paths=None,
    )
    return [host, device]


def on_place(place: Place, stack: ExitStack, sets: list[Any], tensors: Callable[[Any], tuple[Any, ...]]) -> Any:
    """A function from an input set to its tensors there, which the stack frees."""
    held = {id(inputs): tuple(tensor.to(place.device) for tensor in tensors(inputs)) for inputs in sets}
    stack.callback(held.clear)
    return lambda inputs: held[id(inputs)]


def paths_of_durations(answer: Any, inputs: MasInputs) -> list[IntArray]:
    """From durations [B, S] of what `launch` gives."""
    durations = answer[0].cpu().numpy()
    return [np.repeat(np.arange(len(item)), item) for item in durations]


def paths_of_dense(answer: Any, inputs: MasInputs) -> list[IntArray]:
    """From a path [B, S, T], a row of it at a time: it is as large as the scores."""
    found: list[IntArray] = []
    for item, (S, T) in enumerate(zip(inputs.shape.tokens.tolist(), inputs.shape.frames.tolist())):
        marked = answer[item] > 0
        one_a_frame = bool((marked[:S, :T].sum(0) == 1).all()) and int(marked.sum()) == T
        found.append(marked[:S, :T].int().argmax(0).cpu().numpy() if one_a_frame else np.full(T, -1))
    return found


def only_memory(work: Work) -> Work:
    """Without the chain: what MAS does in a frame need not wait for a shuffle, and no chain is claimed for it."""
    return dataclasses.replace(work, chain_steps=0, cells=0)


def read_on_device(tensors: Callable[[Any], tuple[Any, ...]]) -> Contestant:
    """The scores summed once: about the least that any kernel does."""
    return Contestant("torch.sum of the scores", "yardstick", lambda inputs: tensors(inputs)[0].sum())


def mas_tensors(inputs: MasInputs) -> tuple[Any, ...]:
    """Scores, tokens, frames, and the mask as super-monotonic-align's benchmark has it."""
    torch = cpu_peers.torch_module()
    value, mask = inputs.tensors()
    return value, torch.from_numpy(inputs.shape.tokens), torch.from_numpy(inputs.shape.frames), mask.int()


def mas_contestants(place: Place, shape: MasShape, stack: ExitStack, sets: list[MasInputs]) -> list[Contestant]:
    tensors = on_place(place, stack, sets, mas_tensors)

    def dense(inputs: MasInputs, check: bool) -> Any:
        value, _, _, mask = tensors(inputs)
        return place.maximum_path(value, mask, check)

    durations = Contestant(
        DURATIONS,
        "ours",
        lambda inputs: mas_gpu.launch(*tensors(inputs)[:3]),
        paths_of_durations,
        work=only_memory(shape.work(dense=False)),
        items=len(shape.tokens),
    )
    drop_in = Contestant(
        DENSE,
        "ours",
        lambda inputs: dense(inputs, True),
        paths_of_dense,
        work=only_memory(shape.work(dense=True)),
        items=len(shape.tokens),
    )
    return [
        *by_both_clocks(place, durations),
        *by_both_clocks(place, drop_in, lambda inputs: dense(inputs, False)),
        mas_twin(MasInputs.batch),
        *by_both_clocks(place, super_row(tensors, sets, stack)),
        *by_both_clocks(place, read_on_device(tensors)),
    ]


def mas_twin(batch: Callable[[MasInputs], MasBatch]) -> Contestant:
    """The CPU's kernels, which find the very path: at these sizes the judge of ours."""
    return Contestant(TWIN, "twin", lambda inputs: durations_and_path(batch(inputs)), paths_end_to_end, by=WHOLE_CALL)


def super_row(tensors: Any, sets: list[MasInputs], stack: ExitStack) -> Contestant:
    try:
        search = peers.super_monotonic_align()
    except cpu_peers.Missing as missing:
        return absent(SUPER, missing)
    scratch = [cpu_peers.torch_module().empty_like(tensors(sets[0])[0])]
    stack.callback(scratch.clear)

    def prepare(inputs: MasInputs) -> tuple[Any, Any]:
        value, _, _, mask = tensors(inputs)
        return scratch[0].copy_(value), mask

    return Contestant(SUPER, "peer", lambda given: search(*given), paths_of_dense, prepare=prepare)


def ctc_tensors(inputs: CtcInputs) -> tuple[Any, ...]:
    """Log-probs, targets, frames, target lengths."""
    torch = cpu_peers.torch_module()
    B, T, L = inputs.shape.B, inputs.shape.T, inputs.shape.L
    lengths = torch.full((B,), T), torch.full((B,), L)
    return torch.from_numpy(inputs.log_probs), torch.from_numpy(inputs.targets), *lengths


def labels_of_launch(answer: Any, inputs: CtcInputs) -> list[IntArray]:
    """Labels of each frame from the padded states that `launch` gives."""
    states = answer.paths.cpu().numpy()
    items = [inputs.item(index) for index in range(len(states))]
    return [labels_of_path(path[: len(scores)], targets) for path, (scores, targets) in zip(states, items)]


def ctc_contestants(
    place: Place, shape: CtcShape, may_crash: bool, stack: ExitStack, sets: list[CtcInputs]
) -> list[Contestant]:
    tensors = on_place(place, stack, sets, ctc_tensors)

    def labels(inputs: CtcInputs, check: bool) -> Any:
        log_probs, targets, _, _ = tensors(inputs)
        return place.forced_align(log_probs, targets, check)

    launch = Contestant(
        STATES,
        "ours",
        lambda inputs: ctc_gpu.launch(*tensors(inputs)),
        labels_of_launch,
        work=shape.work(sets[0], padded=False),
        items=shape.B,
    )
    drop_in = Contestant(
        LABELS,
        "ours",
        lambda inputs: labels(inputs, True),
        lambda answer, inputs: labels_of_padded((answer[0].cpu(), None), inputs),
        work=shape.work(sets[0], padded=True),
        items=shape.B,
    )
    crash = peers.crash_of_torchaudio(shape, place) if may_crash else ""
    return [
        *by_both_clocks(place, launch),
        *by_both_clocks(place, drop_in, lambda inputs: labels(inputs, False)),
        ctc_twin(CtcInputs.batch),
        *by_both_clocks(place, torchaudio_row(tensors, crash)),
        *by_both_clocks(place, read_on_device(tensors)),
    ]


def labels_of_ragged(answer: CtcResult, inputs: CtcInputs) -> list[IntArray]:
    """Labels of each frame from what `align` gives for all items of the input set."""
    items = [inputs.item(index) for index in range(len(answer.scores))]
    paths = np.split(answer.paths, np.cumsum([len(log_probs) for log_probs, _ in items])[:-1])
    return [labels_of_path(path, targets) for path, (_, targets) in zip(paths, items)]


def ctc_twin(batch: Callable[[Any], CtcBatch]) -> Contestant:
    """The CPU's kernels, which find the very path: at these sizes the judge of ours."""

    def call(inputs: CtcInputs) -> CtcResult:
        return ctc.align(batch(inputs), pool=default_pool())

    return Contestant(TWIN, "twin", call, labels_of_ragged, by=WHOLE_CALL)


def torchaudio_row(tensors: Any, crash: str = "") -> Contestant:
    """One call an item, whatever the batch."""
    try:
        align = peers.torchaudio_forced_align()
    except cpu_peers.Missing as missing:
        return absent(TORCHAUDIO, missing)

    def prepare(inputs: CtcInputs) -> list[tuple[Any, Any]]:
        log_probs, targets, frames, lengths = tensors(inputs)
        sizes = enumerate(zip(frames.tolist(), lengths.tolist()))
        return [(log_probs[b : b + 1, :T], targets[b : b + 1, :L].int()) for b, (T, L) in sizes]

    return Contestant(
        TORCHAUDIO,
        "peer",
        lambda items: [align(*item)[0] for item in items],
        lambda answer, _: [path[0].cpu().numpy() for path in answer],
        prepare=prepare,
        skip=crash,
    )


def cases(place: Place) -> Iterator[Case]:
    """The cases by which the kernels are judged; few cells and few items in a rehearsal."""
    from benchmarks.gpu import real_shapes

    for S in (512, 1024, 2048, 128):
        B, tokens = (1, max(1, S // TINY)) if place.tiny else (16, S)
        shape = uniform(B, 4 * tokens, tokens)
        yield Case(
            f"cuda-mas-{4 * S}x{S}",
            f"MAS, B={B}, S={tokens}, T={4 * tokens}",
            MAS,
            partial(MasInputs, shape),
            partial(mas_contestants, place, shape),
            cells=shape.cells,
            device="cuda",
            rates=partial(rates, place),
            targets=MAS_TARGETS.get(S, ()),
            quick=S == 512,
        )
    yield from real_shapes.cases(place)
    utterances, recording = CtcShape(16, 1500, 32, 300), CtcShape(1, 50_000, 32, 25_000)
    for size, factor, may_crash in ((utterances, 300, False), (recording, 100, True)):
        name = f"cuda-ctc-{size.T}x{size.L}"
        if place.tiny:
            size = CtcShape(min(size.B, 2), 8, 5, 2)
        yield Case(
            name,
            f"CTC, B={size.B}, T={size.T}, V={size.V}, L={size.L}",
            CTC,
            partial(CtcInputs, size),
            partial(ctc_contestants, place, size, may_crash),
            cells=size.cells,
            device="cuda",
            rates=partial(rates, place),
            targets=(Target(STATES, 2, CHAIN), Target(LABELS, 1 / factor, TORCHAUDIO)),
        )
