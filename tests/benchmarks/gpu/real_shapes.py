"""What a server sees: 64 items of many lengths, which should take hardly longer than the longest of them alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np

from alignd_kernels.ctc import gpu as ctc_gpu
from alignd_kernels.ctc.batch import CtcBatch
from alignd_kernels.mas import gpu as mas_gpu
from alignd_kernels.mas.batch import MasBatch, MasResult
from alignd_kernels.ragged import Int64Array, offsets_of
from benchmarks import peers as cpu_peers
from benchmarks.case import Case, Contestant, IntArray, Kind, Target, Work
from benchmarks.cases_ctc import CtcInputs, CtcShape
from benchmarks.cases_mas import MasInputs, MasShape
from benchmarks.gpu.cases import (
    CTC,
    MAS,
    by_both_clocks,
    ctc_twin,
    labels_of_launch,
    labels_of_ragged,
    mas_tensors,
    mas_twin,
    on_place,
    only_memory,
    paths_of_durations,
    super_row,
    torchaudio_row,
)
from benchmarks.gpu.place import IN_KERNELS, Place, rates

Paths = Callable[[Any, Any], list[IntArray]]
Batches = dict[int, tuple[Any, Any]]
"""By the identity of an input set: the ragged batch, and its longest item."""

BATCH, LONGEST = "launch: the batch", "launch: its longest item"
RAGGED, RAGGED_LONGEST = "align: the batch, ragged", "align: its longest item"
TARGETS = (Target(BATCH, 1.5, LONGEST), Target(RAGGED, 1.5, RAGGED_LONGEST))


def frames_of(place: Place) -> Int64Array:
    """T of each item, in no order."""
    frames = np.linspace(8, 12, 2) if place.tiny else np.linspace(200, 1600, 64)
    return np.random.default_rng(11).permutation(frames.astype(np.int64))


def kernel_clock(call: Callable[[], Any]) -> float:
    """Seconds that `align` spent in its kernels."""
    return float(call().kernel_ns) * 1e-9


def in_kernels(
    name: str, kind: Kind, align: Callable[[Any], Any], paths: Paths | None = None, work: Work | None = None
) -> Contestant:
    return Contestant(f"{name}, {IN_KERNELS}", kind, align, paths, work=work, clock=kernel_clock, by=IN_KERNELS)


def ragged(place: Place, family: ModuleType, batches: Batches, paths: Paths, work: Work | None) -> list[Contestant]:
    """`align` of the whole batch and of its longest item, from host memory; by the time in their kernels."""

    def align(which: int) -> Callable[[Any], Any]:
        return lambda inputs: family.align(batches[id(inputs)][which], place.device)

    return [
        in_kernels(RAGGED, "ours", align(0), paths, work),
        in_kernels(RAGGED_LONGEST, "yardstick", align(1)),
    ]


def paths_of_ragged(answer: MasResult, inputs: MasInputs) -> list[IntArray]:
    """From the durations of all items, end to end."""
    durations = np.split(answer.durations, np.cumsum(inputs.shape.tokens)[:-1])
    return [np.repeat(np.arange(len(item)), item) for item in durations]


def ragged_mas(inputs: MasInputs, items: Int64Array) -> MasBatch:
    """These items end to end, as they come over the wire."""
    tokens, frames = inputs.shape.tokens[items], inputs.shape.frames[items]
    values = [inputs.value[b, :S, :T].reshape(-1) for b, S, T in zip(items, tokens, frames)]
    offsets = offsets_of(tokens * frames)[:-1]
    return MasBatch(np.concatenate(values), inputs.shape.dtype, offsets, tokens, frames, frames)


def mas_contestants(place: Place, shape: MasShape, stack: ExitStack, sets: list[MasInputs]) -> list[Contestant]:
    tensors = on_place(place, stack, sets, mas_tensors)
    items = np.arange(len(shape.frames))
    longest = items[shape.frames.argmax()][None]
    S, T = int(shape.tokens[longest[0]]), int(shape.frames[longest[0]])
    batches = {id(inputs): (ragged_mas(inputs, items), ragged_mas(inputs, longest)) for inputs in sets}

    def alone(inputs: MasInputs) -> Any:
        value, tokens, frames, _ = tensors(inputs)
        one = slice(int(longest[0]), int(longest[0]) + 1)
        return mas_gpu.launch(value[one, :S, :T], tokens[one], frames[one])

    batch = Contestant(
        BATCH,
        "ours",
        lambda inputs: mas_gpu.launch(*tensors(inputs)[:3]),
        paths_of_durations,
        work=only_memory(shape.work(dense=False)),
        items=len(items),
    )
    return [
        *by_both_clocks(place, batch),
        *by_both_clocks(place, Contestant(LONGEST, "yardstick", alone)),
        *ragged(place, mas_gpu, batches, paths_of_ragged, batch.work),
        mas_twin(lambda inputs: batches[id(inputs)][0]),
        *by_both_clocks(place, super_row(tensors, sets, stack)),
    ]


class RaggedCtcInputs(CtcInputs):
    """Padded to the longest item; V columns."""

    def __init__(self, frames: Int64Array, V: int, seed: int) -> None:
        self.frames, self.labels = frames, frames // 8
        super().__init__(CtcShape(len(frames), int(frames.max()), V, int(self.labels.max())), seed)

    def item(self, index: int) -> tuple[Any, Any]:
        return self.log_probs[index, : self.frames[index]], self.targets[index, : self.labels[index]]

    def tensors(self) -> tuple[Any, ...]:
        """Log-probs, targets, frames, target lengths."""
        torch = cpu_peers.torch_module()
        return tuple(torch.from_numpy(array) for array in (self.log_probs, self.targets, self.frames, self.labels))

    def ragged(self, items: Int64Array) -> CtcBatch:
        """These items end to end, as they come over the wire."""
        pairs = [self.item(int(b)) for b in items]
        frames, labels, V = self.frames[items], self.labels[items], self.shape.V
        return dataclasses.replace(
            self.batch(),
            log_probs=np.concatenate([log_probs.reshape(-1) for log_probs, _ in pairs]),
            offsets=offsets_of(frames * V)[:-1],
            frames=frames,
            vocabulary=np.full(len(items), V, np.int64),
            pitches=np.full(len(items), V, np.int64),
            targets=np.concatenate([targets for _, targets in pairs]).astype(np.int32),
            target_offsets=offsets_of(labels)[:-1],
            target_lengths=labels,
            blanks=np.zeros(len(items), np.int32),
            star_scores=np.zeros(len(items), np.float32),
        )


def ctc_contestants(place: Place, stack: ExitStack, sets: list[RaggedCtcInputs]) -> list[Contestant]:
    tensors = on_place(place, stack, sets, RaggedCtcInputs.tensors)
    frames, labels, shape = sets[0].frames, sets[0].labels, sets[0].shape
    items = np.arange(len(frames))
    longest = items[frames.argmax()][None]
    T, L = int(frames[longest[0]]), int(labels[longest[0]])
    batches = {id(inputs): (inputs.ragged(items), inputs.ragged(longest)) for inputs in sets}

    def alone(inputs: CtcInputs) -> Any:
        log_probs, targets, frames, lengths = tensors(inputs)
        one = slice(int(longest[0]), int(longest[0]) + 1)
        return ctc_gpu.launch(log_probs[one, :T], targets[one, :L], frames[one], lengths[one])

    read = int(frames.sum()) * shape.V * 4
    batch = Contestant(
        BATCH,
        "ours",
        lambda inputs: ctc_gpu.launch(*tensors(inputs)),
        labels_of_launch,
        work=dataclasses.replace(shape.work(sets[0], padded=False), read_bytes=read),
        items=len(items),
    )
    return [
        *by_both_clocks(place, batch),
        *by_both_clocks(place, Contestant(LONGEST, "yardstick", alone)),
        *ragged(place, ctc_gpu, batches, labels_of_ragged, batch.work),
        ctc_twin(lambda inputs: batches[id(inputs)][0]),
        *by_both_clocks(place, torchaudio_row(tensors)),
    ]


def cases(place: Place) -> Iterator[Case]:
    """One batch of each family: S = T/6 tokens, L = T/8 labels."""
    frames = frames_of(place)
    lengths = f"B={len(frames)}, T={frames.min()} … {frames.max()}"
    shape = MasShape(frames // 6, frames)
    columns = 6 if place.tiny else 32
    cells = int(((2 * (frames // 8) + 1) * (frames - frames // 8 + 1)).sum())
    yield Case(
        "cuda-mas-real",
        f"MAS, {lengths}, S=T/6",
        MAS,
        partial(MasInputs, shape),
        partial(mas_contestants, place, shape),
        cells=shape.cells,
        device="cuda",
        rates=partial(rates, place),
        targets=TARGETS,
    )
    yield Case(
        "cuda-ctc-real",
        f"CTC, {lengths}, V={columns}, L=T/8",
        CTC,
        partial(RaggedCtcInputs, frames, columns),
        partial(ctc_contestants, place),
        cells=cells,
        device="cuda",
        rates=partial(rates, place),
        targets=TARGETS,
    )
