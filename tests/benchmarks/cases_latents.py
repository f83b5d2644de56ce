"""MAS from latents, beside VITS's formulation in torch followed by the packages that text-to-speech training uses."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

import alignd_kernels as ak
from benchmarks import peers
from benchmarks.case import Case, Contestant, IntArray, Target, Verdict, Work, rounding_slack
from benchmarks.cases_mas import absent, paths_of_dense

GROUP = "MAS from latents"
OURS = "maximum_path_from_latents"
PEER = "VITS's products in torch, monotonic-alignment-search"
LOG_2_PI = float(np.log(2 * np.pi))


@dataclasses.dataclass(frozen=True)
class LatentShape:
    """Sizes of one case: tokens and frames of each item, int64 [B], padded to the largest; C channels."""

    tokens: npt.NDArray[np.int64]
    frames: npt.NDArray[np.int64]
    C: int

    @property
    def size(self) -> tuple[int, int, int]:
        return len(self.tokens), int(self.tokens.max()), int(self.frames.max())

    @property
    def cells(self) -> int:
        """Cells that a legal path can visit: each token lies in a window of T − S + 1 frames."""
        return int((self.tokens * (self.frames - self.tokens + 1)).sum())

    def work(self) -> Work:
        """Latents, means and deviations read, a dense path written. The products' arithmetic, which binds, is a row of
        its own: the same number of multiply-adds by a library that does nothing else."""
        B, S, T = self.size
        read = 4 * self.C * int((self.frames + 2 * self.tokens).sum())
        return Work(read, 4 * B * S * T, int(self.frames.max()), self.cells)


class LatentInputs:
    """z [B, T, C], mean and log_sigma [B, S, C] of one batch, and the same as torch sees them."""

    def __init__(self, shape: LatentShape, seed: int) -> None:
        torch = peers.torch_module()
        self.shape = shape
        B, S, T = shape.size
        rng = np.random.default_rng(seed)
        self.z, self.mean, log_sigma = (rng.standard_normal((B, n, shape.C), dtype=np.float32) for n in (T, S, S))
        self.log_sigma = log_sigma * np.float32(0.3)
        self.tensors = [torch.from_numpy(array) for array in self.buffers]
        self.frames, self.tokens = torch.from_numpy(shape.frames), torch.from_numpy(shape.tokens)
        token, frame = np.arange(S) < shape.tokens[:, None], np.arange(T) < shape.frames[:, None]
        self.mask = torch.from_numpy((token[:, :, None] & frame[:, None]).astype(np.float32))

    @property
    def buffers(self) -> list[npt.NDArray[Any]]:
        return [self.z, self.mean, self.log_sigma]

    def judge(self, item: int, path: IntArray) -> Verdict:
        """The score in float64. The slack is the search's rounding, and that of the lattice by products, whose squares
        cancel: (C + 10) · 2⁻²⁴ of what they sum, in each cell of the path and of the one it is compared with."""
        S, T = int(self.shape.tokens[item]), int(self.shape.frames[item])
        if len(path) != T or path[0] != 0 or path[-1] != S - 1 or not np.isin(np.diff(path), (0, 1)).all():
            return Verdict(-np.inf, 0.0, "not a monotonic path from the first token to the last")
        z = self.z[item, :T].astype(np.float64)
        mean, log_sigma = (array[item, path].astype(np.float64) for array in (self.mean, self.log_sigma))
        inverse, C = np.exp(-2 * log_sigma), self.shape.C
        terms = (-0.5 * ((z - mean) ** 2 * inverse + LOG_2_PI) - log_sigma).sum(1)
        squares = ((z**2 + mean**2) * inverse + np.abs(log_sigma) + 1).sum(1)
        return Verdict(float(terms.sum()), rounding_slack(terms) + 2 * (C + 10) * 2.0**-24 * float(squares.sum()))


def ours(inputs: LatentInputs) -> Any:
    z, mean, log_sigma = inputs.tensors
    return ak.maximum_path_from_latents(z, mean, log_sigma, inputs.frames, inputs.tokens)


def vits_lattice(inputs: LatentInputs) -> Any:
    """The log-likelihoods [B, S, T] as VITS adds them up: two sums over channels and two products."""
    torch = peers.torch_module()
    z, mean, log_sigma = inputs.tensors
    precision = torch.exp(-2 * log_sigma)
    normaliser = torch.sum(-0.5 * LOG_2_PI - log_sigma, 2, keepdim=True)
    of_squares = torch.matmul(precision, -0.5 * (z**2).transpose(1, 2))
    mixed = torch.matmul(mean * precision, z.transpose(1, 2))
    of_means = torch.sum(-0.5 * mean**2 * precision, 2, keepdim=True)
    return normaliser + of_squares + mixed + of_means


def products(inputs: LatentInputs, multiply: Callable[[Any, Any], Any]) -> None:
    """As many multiply-adds as a lattice of two products, and nothing else, not even the second one's sum."""
    multiply(inputs.mean, inputs.z.transpose(0, 2, 1))
    multiply(inputs.log_sigma, inputs.z.transpose(0, 2, 1))


def by_torch(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> Any:
    torch = peers.torch_module()
    return torch.matmul(torch.from_numpy(one), torch.from_numpy(other))


def contestants(shape: LatentShape, stack: ExitStack, sets: list[LatentInputs]) -> list[Contestant]:
    del stack, sets
    B = len(shape.tokens)
    rows = [Contestant(OURS, "ours", ours, paths_of_dense, work=shape.work(), items=B)]
    try:
        search = peers.monotonic_alignment_search()
        rows.append(
            Contestant(PEER, "peer", lambda inputs: search(vits_lattice(inputs), inputs.mask), paths_of_dense, items=B)
        )
    except peers.Missing as missing:
        rows.append(absent(PEER, missing))
    return [
        *rows,
        Contestant("VITS's products in torch, no search", "yardstick", vits_lattice, items=B),
        Contestant("two products alone, torch", "yardstick", partial(products, multiply=by_torch), items=B),
        Contestant("two products alone, NumPy", "yardstick", partial(products, multiply=np.matmul), items=B),
    ]


def case(name: str, title: str, shape: LatentShape, **options: Any) -> Case:
    return Case(
        name, title, GROUP, partial(LatentInputs, shape), partial(contestants, shape), cells=shape.cells, **options
    )


def uniform(B: int, T: int, S: int, C: int) -> LatentShape:
    return LatentShape(np.full(B, S, np.int64), np.full(B, T, np.int64), C)


def cases() -> Iterator[Case]:
    """Mel channels (Glow-TTS) and those of a VAE's latents (VITS), and one long item."""
    target = (Target(OURS, 1 / 3, PEER),)
    yield case("latents-800x160x80", "B=32, T=800, S=160, C=80", uniform(32, 800, 160, 80), quick=True, targets=target)
    yield case("latents-800x160x192", "B=32, T=800, S=160, C=192", uniform(32, 800, 160, 192), targets=target)
    yield case("latents-2048x512x192", "one item, T=2048, S=512, C=192", uniform(1, 2048, 512, 192), targets=target)
