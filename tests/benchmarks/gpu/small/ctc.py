"""Best paths of CTC, ragged and padded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from alignd_kernels.ctc import gpu
from alignd_kernels.ctc import reference as specification
from alignd_kernels.ctc.batch import STAR
from alignd_kernels.dtypes import DType
from alignd_kernels.ragged import offsets_of
from benchmarks import peers
from benchmarks.gpu.place import Place
from benchmarks.gpu.small.judge import Scores, Targets, ctc_batch, grid, same

KERNELS = (gpu,)
SHAPES = [(1, 2, 1), (33, 5, 16), (31, 3, 10), (64, 7, 31), (65, 4, 33), (3, 4, 5), (130, 9, 64)]
"""Frames, columns and labels."""

STAR_SCORE = -0.5


def items_of(rng: np.random.Generator, shapes: Sequence[tuple[int, int, int]]) -> list[tuple[Scores, Targets]]:
    """Log-probs and targets, a wildcard among them where there is room."""
    found = []
    for frames, columns, labels in shapes:
        targets = rng.integers(1, columns, labels).astype(np.int32)
        if labels > 2:
            targets[labels // 2] = STAR
        found.append((grid(rng, (frames, columns)), targets))
    return found


def check(place: Place, dtype: DType, count: int) -> None:
    check_ragged(place, dtype, items_of(np.random.default_rng(1), SHAPES[:count]))
    check_padded(place, dtype)


def check_ragged(place: Place, dtype: DType, items: Sequence[tuple[Scores, Targets]]) -> None:
    batch = ctc_batch(items, dtype, STAR_SCORE)
    result = gpu.align(batch, place.device)
    paths = np.split(result.paths, offsets_of(batch.frames)[1:-1])
    durations = np.split(result.durations, offsets_of(batch.target_lengths)[1:-1])
    for index, (item, targets) in enumerate(items):
        answer = specification.forced_align(item, targets, star_score=STAR_SCORE, accumulator=dtype.accumulator)
        name = f"CTC, {dtype.value}, {item.shape}, {len(targets)} labels"
        same(name, result.statuses[index], answer.status)
        same(name, paths[index], answer.path)
        same(name, durations[index], answer.durations)
        same(name, result.scores[index], answer.score)


def check_padded(place: Place, dtype: DType) -> None:
    """A tensor on the device, of which the kernels read a part."""
    torch = peers.torch_module()
    value = grid(np.random.default_rng(2), (2, 21, 9))
    log_probs = torch.from_numpy(value).to(place.device, getattr(torch, dtype.value))
    targets = torch.tensor([[1, 2, 3, 3], [4, 1, 1, 1]], device=place.device)
    lengths = torch.tensor([[21, 13], [4, 2]], device=place.device)
    paths = gpu.launch(log_probs, targets, lengths[0], lengths[1]).paths.cpu().numpy()
    for index, (T, L) in enumerate([(21, 4), (13, 2)]):
        own = targets[index, :L].cpu().numpy()
        answer = specification.forced_align(value[index, :T], own, accumulator=dtype.accumulator)
        same(f"CTC, padded, {dtype.value}", paths[index, :T], answer.path)
