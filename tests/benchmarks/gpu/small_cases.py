"""Small batches of odd sizes in every type against the reference: what a memory checker runs, many times slower.

`python -m benchmarks.gpu.small_cases [--rehearse] [--together]`
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

import alignd_kernels as ak
from alignd_kernels.ctc import gpu as ctc_gpu
from alignd_kernels.ctc import reference as ctc_reference
from alignd_kernels.ctc.batch import STAR, CtcBatch
from alignd_kernels.dtypes import DType
from alignd_kernels.mas import gpu as mas_gpu
from alignd_kernels.mas import reference as mas_reference
from alignd_kernels.mas.batch import MasBatch
from alignd_kernels.ragged import offsets_of
from alignd_kernels.transducer import gpu as transducer_gpu
from alignd_kernels.transducer import gpu_sum as transducer_gpu_sum
from alignd_kernels.transducer import reference as transducer_reference
from alignd_kernels.transducer.batch import reduced
from benchmarks import peers
from benchmarks.cases_mas import stored
from benchmarks.gpu.place import Place, place_of

MAS_SHAPES = [(1, 1), (1, 33), (31, 31), (32, 65), (33, 64), (65, 97), (3, 2), (0, 5), (127, 129), (130, 259)]
"""Tokens and frames: around the edges of strips and chunks, and items that have no path."""

CTC_SHAPES = [(1, 2, 1), (33, 5, 16), (31, 3, 10), (64, 7, 31), (65, 4, 33), (3, 4, 5), (130, 9, 64)]
"""Frames, columns and labels."""

TRANSDUCER_SHAPES = [(1, 0), (2, 3), (33, 31), (31, 32), (5, 33), (65, 64), (3, 5), (0, 2), (130, 9)]
"""Frames and labels."""

FEW = 2
"""Of each, in a rehearsal."""

Scores = npt.NDArray[np.float32]


class WrongAnswerError(Exception):
    """A kernel's answer is not the reference's."""


def grid(rng: np.random.Generator, shape: tuple[int, ...]) -> Scores:
    """Multiples of 1/4, whose sums every type of accumulator holds exactly: the reference's very path is the answer."""
    return (rng.integers(-6, 1, shape) / 4).astype(np.float32)


def mas_batch(items: Sequence[Scores], dtype: DType) -> MasBatch:
    tokens, frames = (np.array([item.shape[axis] for item in items], np.int64) for axis in range(2))
    values = stored(np.concatenate([item.reshape(-1) for item in items]), dtype)
    return MasBatch(values, dtype, offsets_of(tokens * frames)[:-1], tokens, frames, frames)


def check_mas(place: Place, dtype: DType, items: Sequence[Scores]) -> None:
    """Raises:
    WrongAnswerError: `align` gives something else than the reference.
    """
    batch = mas_batch(items, dtype)
    result = mas_gpu.align(batch, place.device)
    durations = np.split(result.durations, offsets_of(batch.tokens)[1:-1])
    for index, item in enumerate(items):
        status, expected, score = mas_reference.maximum_path(item, dtype.accumulator)
        _same(f"MAS, {dtype.value}, {item.shape}", result.statuses[index], status)
        _same(f"MAS, {dtype.value}, {item.shape}", durations[index], expected)
        _same(f"MAS, {dtype.value}, {item.shape}", result.scores[index], score)


def ctc_items(rng: np.random.Generator, count: int) -> list[tuple[Scores, npt.NDArray[np.int32]]]:
    """Log-probs and targets, a wildcard among them where there is room."""
    found = []
    for frames, columns, labels in CTC_SHAPES[:count]:
        targets = rng.integers(1, columns, labels).astype(np.int32)
        targets[labels // 2] = STAR if labels > 2 else targets[0]
        found.append((grid(rng, (frames, columns)), targets))
    return found


def check_ctc(place: Place, dtype: DType, items: Sequence[tuple[Scores, npt.NDArray[np.int32]]]) -> None:
    """Raises:
    WrongAnswerError: `align` gives something else than the reference.
    """
    frames, columns = (np.array([item.shape[axis] for item, _ in items], np.int64) for axis in range(2))
    labels = np.array([len(targets) for _, targets in items], np.int64)
    batch = CtcBatch(
        stored(np.concatenate([item.reshape(-1) for item, _ in items]), dtype),
        dtype,
        offsets_of(frames * columns)[:-1],
        frames,
        columns,
        columns,
        np.concatenate([targets for _, targets in items]),
        offsets_of(labels)[:-1],
        labels,
        np.zeros(len(items), np.int32),
        np.full(len(items), -0.5, np.float32),
    )
    result = ctc_gpu.align(batch, place.device)
    paths = np.split(result.paths, offsets_of(frames)[1:-1])
    durations = np.split(result.durations, offsets_of(labels)[1:-1])
    for index, (item, targets) in enumerate(items):
        answer = ctc_reference.forced_align(item, targets, star_score=-0.5, accumulator=dtype.accumulator)
        name = f"CTC, {dtype.value}, {item.shape}, {len(targets)} labels"
        _same(name, result.statuses[index], answer.status)
        _same(name, paths[index], answer.path)
        _same(name, durations[index], answer.durations)
        _same(name, result.scores[index], answer.score)


def check_transducer(place: Place, dtype: DType, items: Sequence[Scores], modified: bool) -> None:
    """Raises:
    WrongAnswerError: a path is not the reference's, or a cost or a gradient not near it.
    """
    frames, nodes = (np.array([item.shape[axis] for item in items], np.int64) for axis in range(2))
    arcs = stored(np.concatenate([item.reshape(-1) for item in items]), dtype)
    starts = offsets_of(2 * frames * nodes)
    batch = reduced(arcs, dtype, starts[:-1], frames, nodes - 1, modified=modified)
    result = transducer_gpu.align(batch, place.device)
    sums = transducer_gpu_sum.costs(batch, place.device)
    emissions = np.split(result.emission_frames, offsets_of(nodes - 1)[1:-1])
    for index, item in enumerate(items):
        name = f"transducer, {dtype.value}, {item.shape}{', modified' * modified}"
        T, U = len(item), item.shape[1] - 1
        labels = np.ones(U, np.int32)
        status = transducer_reference.check_labels(labels, T, 2, 0, modified)
        if status == status.OK:
            status, expected, score = transducer_reference.align(item, modified, dtype.accumulator)
            _same(name, emissions[index], expected)
            _same(name, result.scores[index], score)
            cost, slopes = transducer_reference.cost(item, modified)
            found = sums.gradients[starts[index] : starts[index + 1]] if sums.gradients is not None else None
            _near(f"{name}: cost", sums.costs[index], cost)
            _near(f"{name}: gradient", found, slopes.reshape(-1))
        _same(name, result.statuses[index], status)
        _same(name, sums.statuses[index], status)


def _near(name: str, found: object, expected: object) -> None:
    """Within a hundredth of a percent: what `gpu_sum` promises is far less."""
    if not np.allclose(np.asarray(found), np.asarray(expected), 1e-4, 1e-5):
        raise WrongAnswerError(f"{name}: {found}, not {expected}")


def _same(name: str, found: object, expected: object) -> None:
    if not np.array_equal(np.asarray(found), np.asarray(expected), equal_nan=True):
        raise WrongAnswerError(f"{name}: {found}, not {expected}")


def check_padded(place: Place, dtype: DType) -> None:
    """Tensors on the device, of which the kernels read a part.

    Raises:
        WrongAnswerError: `launch` gives something else than the reference.
    """
    torch = peers.torch_module()
    value = grid(np.random.default_rng(2), (2, 9, 21))
    lengths = torch.tensor([[9, 5], [21, 13]], device=place.device)
    tensor = torch.from_numpy(value).to(place.device, getattr(torch, dtype.value))
    durations = mas_gpu.launch(tensor, lengths[0], lengths[1])[0].cpu().numpy()
    log_probs = tensor.transpose(1, 2).contiguous()  # [2, 21, 9]
    targets = torch.tensor([[1, 2, 3, 3], [4, 1, 1, 1]], device=place.device)
    labels = torch.tensor([4, 2], device=place.device)
    paths = ctc_gpu.launch(log_probs, targets, lengths[1], labels).paths.cpu().numpy()
    for index, (S, T, L) in enumerate([(9, 21, 4), (5, 13, 2)]):
        _, expected, _ = mas_reference.maximum_path(value[index, :S, :T], dtype.accumulator)
        _same(f"MAS, padded, {dtype.value}", durations[index, :S], expected)
        emissions = value[index].T[:T]
        answer = ctc_reference.forced_align(emissions, targets[index, :L].cpu().numpy(), accumulator=dtype.accumulator)
        _same(f"CTC, padded, {dtype.value}", paths[index, :T], answer.path)


def check(place: Place, dtype: DType) -> None:
    """Raises:
    WrongAnswerError: a kernel gives something else than the reference.
    """
    if not place.tiny:  # compiled here, and found in Triton's cache by all that comes later
        mas_gpu.warm_up(place.device, [dtype])
        ctc_gpu.warm_up(place.device, [dtype])
        transducer_gpu.warm_up(place.device, [dtype])
        transducer_gpu_sum.warm_up(place.device, [dtype])
    count = FEW if place.tiny else len(MAS_SHAPES)
    rng = np.random.default_rng(1)
    check_mas(place, dtype, [grid(rng, shape) for shape in MAS_SHAPES[:count]])
    check_ctc(place, dtype, ctc_items(rng, count))
    for modified in (False, True):
        shapes = [(T, U + 1, 2) for T, U in TRANSDUCER_SHAPES[:count]]
        check_transducer(place, dtype, [grid(rng, shape) for shape in shapes], modified)
    check_padded(place, dtype)
    seconds = ak.compile_seconds()
    print(f"{dtype.value}: equal to the reference; {seconds:.1f} s spent compiling or loading so far", flush=True)


def in_processes(rehearse: bool) -> int:
    """A process a type, all at once: compiling takes one processor."""
    mode = ["--rehearse"] if rehearse else []
    commands = ([sys.executable, "-m", "benchmarks.gpu.small_cases", *mode, dtype.value] for dtype in DType)
    processes = [subprocess.Popen(command) for command in commands]
    try:
        failed = [process for process in processes if process.wait() != 0]
    finally:
        for process in processes:
            process.kill()
    print(
        f"MAS, CTC and transducers, ragged and padded: {len(processes) - len(failed)} of {len(processes)} types right"
    )
    return 1 if failed else 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--together", action="store_true", help="all types in this process")
    parser.add_argument(
        "dtypes", nargs="*", type=DType, default=[], metavar="DTYPE", help="only these, in this process"
    )
    chosen = parser.parse_args(arguments)
    if not chosen.together and not chosen.dtypes:
        return in_processes(chosen.rehearse)
    place = place_of(chosen.rehearse)
    for dtype in chosen.dtypes or DType:
        check(place, dtype)
    return 0


if __name__ == "__main__":
    sys.exit(main())
