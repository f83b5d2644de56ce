# mypy: allow-untyped-calls
"""The memory through which strips hand over their borders (`gpu_strips`): used again by later launches of a stream."""

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import torch

from alignd_kernels.gpu_strips import MAX_EPOCH

KEPT_WORDS: Final = 1 << 23
"""64 MiB a stream. More is made for one launch and cleared before: nothing beside the scores that such a one reads."""

MAX_TICKETS: Final = 2**31 - 1

PATIENCE: Final = 1 << 22
"""Looks at a word that does not come, each a trip to memory: seconds, where a good one takes milliseconds at most."""


@dataclass(slots=True)
class Borders:
    """What a forward kernel is told: words that hold nothing of `epoch` yet, and counters.

    Attributes:
        words: int64.
        tickets: int32 [1], as many as have been drawn: `first_ticket`.
        arrivals: int32, one for each item, zero before and after a launch.
    """

    words: torch.Tensor
    tickets: torch.Tensor
    arrivals: torch.Tensor
    epoch: int = 1
    first_ticket: int = 0

    def suffice(self, words: int, items: int, programs: int) -> bool:
        """Whether they do for such a launch."""
        enough = self.words.numel() >= words and self.arrivals.numel() >= items
        return enough and self.epoch <= MAX_EPOCH and self.first_ticket <= MAX_TICKETS - programs


@dataclass(slots=True)
class _Kept:
    """Of one stream. The lock is held until a launch is queued: launches happen in the order of their epochs."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    borders: Borders | None = None


@functools.cache
def _kept(device: torch.device, stream: int) -> _Kept:
    return _Kept()


@contextmanager
def borders(device: torch.device, words: int, items: int, programs: int) -> Iterator[Borders]:
    """Memory for a launch of `programs` strips of `items`, to be queued on the device's current stream in the context.

    While a CUDA graph is captured, and for large launches, it is made anew and cleared; the graph clears it each time.
    """
    stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
    capturing = device.type == "cuda" and torch.cuda.is_current_stream_capturing()
    if capturing or words > KEPT_WORDS:
        yield _cleared(device, words, items)
        return
    kept = _kept(device, stream)
    with kept.lock:
        found, kept.borders = kept.borders, None  # what a launch that fails has left is not used again
        if found is None or not found.suffice(words, items, programs):
            before = (0, 0) if found is None else (found.words.numel(), found.arrivals.numel())
            found = None  # its memory can be had again for the new one
            words = before[0] if words <= before[0] else min(KEPT_WORDS, 2 * words)
            found = _cleared(device, words, before[1] if items <= before[1] else 2 * items)
        yield found
        found.epoch += 1
        found.first_ticket += programs
        kept.borders = found


def _cleared(device: torch.device, words: int, items: int) -> Borders:
    counters = torch.zeros(1 + items, dtype=torch.int32, device=device)
    return Borders(torch.zeros(words, dtype=torch.int64, device=device), counters[:1], counters[1:])
