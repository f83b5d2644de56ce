"""Monotonic alignment search: shapes, layouts and types beside the packages that text-to-speech training uses."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

import alignd_kernels as ak
from alignd_kernels import mas
from alignd_kernels.mas.batch import MasBatch
from alignd_kernels.threads import default_pool
from benchmarks import peers
from benchmarks.case import Case, Contestant, IntArray, Verdict, Work, rounding_slack

Layout = Literal["BST", "BTS"]
GROUP = "MAS"


@dataclasses.dataclass(frozen=True)
class MasShape:
    """Sizes of one case; `tokens` and `frames` are int64 [B], of which the padded tensor has the largest.

    Attributes:
        layout: which of tokens and frames is contiguous in memory: BST (Glow-TTS) has frames, BTS (VITS) tokens.
        dtype: of the scores.
        dense: also ask for the path as a dense tensor.
    """

    tokens: npt.NDArray[np.int64]
    frames: npt.NDArray[np.int64]
    layout: Layout = "BST"
    dtype: ak.DType = ak.DType.FLOAT32
    dense: bool = True

    @property
    def size(self) -> tuple[int, int, int]:
        return len(self.tokens), int(self.tokens.max()), int(self.frames.max())

    @property
    def cells(self) -> int:
        """Cells that a legal path can visit: each token lies in a window of T − S + 1 frames."""
        return int((self.tokens * (self.frames - self.tokens + 1)).sum())

    @property
    def uniform(self) -> bool:
        return bool((self.tokens == self.tokens[0]).all() and (self.frames == self.frames[0]).all())

    def work(self, *, dense: bool) -> Work:
        """Durations: the reachable band read, int32 durations and path written. Dense: the mask read as well (it may be
        no rectangle), and the padded float32 path written."""
        B, S, T = self.size
        wide = 8 if self.dtype is ak.DType.FLOAT64 else self.dtype.storage.itemsize
        read, written = self.cells * wide, 4 * int((self.tokens + self.frames).sum())
        if dense:
            read, written = read + B * S * T * 4, B * S * T * 4
        return Work(read, written, int(self.frames.max()), self.cells)


class MasInputs:
    """Scores of one batch, padded, and the same as NumPy and torch see it."""

    def __init__(self, shape: MasShape, seed: int) -> None:
        self.shape = shape
        B, S, T = shape.size
        rows, columns = (S, T) if shape.layout == "BST" else (T, S)
        scores = np.random.default_rng(seed).standard_normal((B, rows, columns), dtype=np.float32)
        self.stored = stored(scores, shape.dtype)
        self.mask = _mask(shape)
        self.value = self.stored if shape.layout == "BST" else self.stored.transpose(0, 2, 1)  # [B, S, T]

    @property
    def buffers(self) -> list[npt.NDArray[Any]]:
        return [self.stored]

    def widened(self, item: int, path: IntArray) -> npt.NDArray[np.float64]:
        """Scores of one item on a path, float64 [T]."""
        value: npt.NDArray[Any] = self.value[item, path, np.arange(len(path))]
        if self.shape.dtype is ak.DType.BFLOAT16:
            value = (value.astype(np.uint32) << 16).view(np.float32)
        elif value.dtype == np.uint16:
            value = value.view(np.float16)
        return value.astype(np.float64)

    def judge(self, item: int, path: IntArray) -> Verdict:
        S, T = int(self.shape.tokens[item]), int(self.shape.frames[item])
        if len(path) != T or path[0] != 0 or path[-1] != S - 1 or not np.isin(np.diff(path), (0, 1)).all():
            return Verdict(-np.inf, 0.0, "not a monotonic path from the first token to the last")
        terms = self.widened(item, path)
        return Verdict(float(terms.sum()), rounding_slack(terms))

    def batch(self) -> MasBatch:
        """The items for `mas.align`, where they lie."""
        B, S, T = self.shape.size
        items = np.arange(B, dtype=np.int64)
        turned = self.shape.layout == "BTS"
        # Older revisions, which --compare measures too, know the other layout only.
        options: dict[str, Any] = {"frames_first": True} if turned else {}
        return MasBatch(
            values=self.stored.reshape(-1),
            dtype=self.shape.dtype,
            offsets=items * (S * T),
            tokens=self.shape.tokens,
            frames=self.shape.frames,
            pitches=np.full(B, S if turned else T, np.int64),
            **options,
        )

    def tensors(self) -> tuple[Any, Any]:
        """Value and mask as torch tensors [B, S, T], sharing this memory."""
        torch = peers.torch_module()
        value = torch.from_numpy(self.stored.view(np.int16) if self.stored.dtype == np.uint16 else self.stored)
        if self.shape.dtype in (ak.DType.FLOAT16, ak.DType.BFLOAT16):
            value = value.view(getattr(torch, self.shape.dtype.value))
        mask = torch.from_numpy(self.mask)
        return (value, mask) if self.shape.layout == "BST" else (value.transpose(1, 2), mask.transpose(1, 2))


def stored(scores: npt.NDArray[np.float32], dtype: ak.DType) -> npt.NDArray[Any]:
    """The scores as they are held in memory, rounded to the type; bfloat16 by cutting bits off."""
    if dtype is ak.DType.FLOAT16:
        return scores.astype(np.float16).view(np.uint16)
    if dtype is ak.DType.BFLOAT16:
        return (scores.view(np.uint32) >> 16).astype(np.uint16)
    return scores.astype(dtype.value, copy=False)


def _mask(shape: MasShape) -> npt.NDArray[np.float32]:
    """Ones in each item's rectangle, in the layout of the scores."""
    _, S, T = shape.size
    tokens = np.arange(S) < shape.tokens[:, None]
    frames = np.arange(T) < shape.frames[:, None]
    first, second = (tokens, frames) if shape.layout == "BST" else (frames, tokens)
    return (first[:, :, None] & second[:, None, :]).astype(np.float32)


def durations_and_path(batch: MasBatch) -> tuple[npt.NDArray[np.int32], IntArray]:
    result = mas.align(batch, pool=default_pool(), paths=True)
    assert result.paths is not None
    return result.durations, result.paths


def paths_end_to_end(answer: tuple[Any, IntArray], inputs: MasInputs) -> list[IntArray]:
    return np.split(answer[1], np.cumsum(inputs.shape.frames)[:-1])


def paths_of_dense(answer: Any, inputs: MasInputs) -> list[IntArray]:
    """From a path [B, S, T] of zeros and something above, NumPy's or torch's."""
    if hasattr(answer, "float"):
        answer = answer.float().numpy()
    found: list[IntArray] = []
    for item, (S, T) in enumerate(zip(inputs.shape.tokens, inputs.shape.frames)):
        marked = answer[item, :S, :T] > 0
        one_a_frame = (marked.sum(0) == 1).all() and (answer[item] > 0).sum() == T
        found.append(marked.argmax(0) if one_a_frame else np.full(T, -1))
    return found


def contestants(shape: MasShape, stack: ExitStack, sets: list[MasInputs]) -> list[Contestant]:
    del stack
    B = len(shape.tokens)
    batches = {id(inputs): inputs.batch() for inputs in sets}
    found = [
        Contestant(
            "mas.align: durations, path",
            "ours",
            lambda inputs: durations_and_path(batches[id(inputs)]),
            paths_end_to_end,
            work=shape.work(dense=False),
            items=B,
        )
    ]
    if shape.dense:
        tensors = {id(inputs): inputs.tensors() for inputs in sets}
        found.append(
            Contestant(
                "maximum_path: dense, torch",
                "ours",
                lambda inputs: ak.maximum_path(*tensors[id(inputs)]),
                paths_of_dense,
                work=shape.work(dense=True),
                items=B,
            )
        )
        found += mas_peers(shape, tensors)
    return found


def mas_peers(shape: MasShape, tensors: dict[int, tuple[Any, Any]]) -> list[Contestant]:
    """The packages that take this layout and type, each with what it needs."""
    B, S, T = shape.size
    rows = []
    if shape.layout == "BST":
        name = "monotonic-alignment-search"
        try:
            search = peers.monotonic_alignment_search()
            rows.append(Contestant(name, "peer", lambda inputs: search(*tensors[id(inputs)]), paths_of_dense, items=B))
        except peers.Missing as missing:
            rows.append(absent(name, missing))
        return rows
    own = {key: (value.transpose(1, 2), mask.transpose(1, 2)) for key, (value, mask) in tensors.items()}
    try:
        align = peers.monotonic_align()

        def vits(inputs: MasInputs) -> Any:
            return align(*own[id(inputs)]).transpose(1, 2)

        rows.append(
            Contestant(
                "monotonic-align",
                "peer",
                lambda inputs: align(*own[id(inputs)]).transpose(1, 2),
                paths_of_dense,
                items=B,
            )
        )
    except peers.Missing as missing:
        rows.append(absent("monotonic-align", missing))
    name = "ddtw, hard minimum's gradient"
    needed = peers.ddtw_bytes(B, T, S, steps=2)
    if needed > peers.MOST_BYTES or not shape.uniform:
        why = "ragged batches not asked" if not shape.uniform else f"needs about {needed / 1e9:.0f} GB"
        rows.append(Contestant(name, "peer", lambda _: None, skip=why))
        return rows
    try:
        gradient = peers.ddtw_monotonic()
        rows.append(
            Contestant(
                name, "peer", lambda inputs: gradient(own[id(inputs)][0]).transpose(1, 2), paths_of_dense, items=B
            )
        )
    except peers.Missing as missing:
        rows.append(absent(name, missing))
    return rows


def absent(name: str, missing: peers.Missing) -> Contestant:
    return Contestant(name, "peer", lambda _: None, skip=f"missing: {missing}")


def uniform(B: int, T: int, S: int, **options: Any) -> MasShape:
    return MasShape(np.full(B, S, np.int64), np.full(B, T, np.int64), **options)


def utterances(B: int, **options: Any) -> MasShape:
    """Lengths as in read speech: 1 to 15 s at 86 mel frames a second, log-normal, about 5.5 frames a token."""
    rng = np.random.default_rng(7)
    frames = np.clip(np.exp(rng.normal(np.log(480), 0.5, B)), 86, 1290).astype(np.int64)
    tokens = np.maximum(1, (frames / rng.uniform(4.5, 6.5, B)).astype(np.int64))
    return MasShape(tokens, frames, **options)


def tiny(B: int) -> MasShape:
    rng = np.random.default_rng(8)
    frames = rng.integers(60, 101, B)
    return MasShape(rng.integers(10, 21, B), frames)


def case(name: str, title: str, shape: MasShape, **options: Any) -> Case:
    return Case(
        name, title, GROUP, partial(MasInputs, shape), partial(contestants, shape), cells=shape.cells, **options
    )


def cases() -> Iterator[Case]:
    """All of the family, small to large where time per cell is compared."""
    growth = {"growth": "MAS, float32"}
    yield case("mas-tiny", "3,000 items of T=60 … 100, S=10 … 20", tiny(3000), **growth)
    yield case("mas-800x160", "B=32, T=800, S=160", uniform(32, 800, 160), quick=True, **growth)
    yield case("mas-2048x512", "B=32, T=2048, S=512", uniform(32, 2048, 512), quick=True, **growth)
    long = uniform(1, 40_000, 4_000, dense=False)
    yield case("mas-40000x4000", "one item, T=40,000, S=4,000", long, memory=True, **growth)
    yield case(
        "mas-800x160-bts", "B=32, T=800, S=160, [B,T,S] in memory", uniform(32, 800, 160, layout="BTS"), quick=True
    )
    yield case("mas-2048x512-bts", "B=32, T=2048, S=512, [B,T,S] in memory", uniform(32, 2048, 512, layout="BTS"))
    yield case("mas-ragged", "256 utterances of 1 … 15 s", utterances(256))
    for dtype in (ak.DType.FLOAT16, ak.DType.BFLOAT16, ak.DType.FLOAT64):
        shape = uniform(32, 2048, 512, dtype=dtype)
        yield case(f"mas-2048x512-{dtype.value}", f"B=32, T=2048, S=512, {dtype.value}", shape)
