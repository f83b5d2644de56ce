"""Tables of padded batches, made where the batch lies: numbers of each item, which a kernel reads."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch

Made = TypeVar("Made")


def kept(make: Callable[..., Made]) -> Callable[..., Made]:
    """`make`, a function of a device and hashable numbers, whose tensors are kept for the next call with the same: they
    take a dozen launches. For each stream, as their makers run there."""

    @functools.lru_cache(maxsize=64)
    def made(stream: int, device: torch.device, *numbers: Any) -> Made:
        return make(device, *numbers)

    @functools.wraps(make)
    def call(device: torch.device, *numbers: Any) -> Made:
        if device.type != "cuda":
            return made(0, device, *numbers)
        if torch.cuda.is_current_stream_capturing():  # a graph must own what it reads
            return make(device, *numbers)
        return made(torch.cuda.current_stream(device).cuda_stream, device, *numbers)

    return call


class Row(NamedTuple):
    """first + b · step for item b."""

    step: int
    first: int = 0


def same(*values: int) -> tuple[Row, ...]:
    """Rows of one number for all items."""
    return tuple(Row(0, value) for value in values)


def each(*steps: int) -> tuple[Row, ...]:
    """Rows of where each item's part begins, if every item has so many."""
    return tuple(Row(step) for step in steps)


@kept
def padded_table(device: torch.device, B: int, rows: tuple[Row, ...]) -> torch.Tensor:
    """int64 [rows, B + 1]: of each item, and of the end."""
    item = torch.arange(B + 1, dtype=torch.int64, device=device)
    return torch.stack([item * row.step + row.first if row.step else torch.full_like(item, row.first) for row in rows])
