"""What a machine can do at best, and the least time that some work takes at these rates."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.case import Work


@dataclass(frozen=True, slots=True)
class Floor:
    """Least seconds of one call, and what binds it: "memory", "chain" or "arithmetic"."""

    seconds: float
    bound_by: str


@dataclass(frozen=True, slots=True)
class Rates:
    """Bytes a second of the whole machine, and seconds of one dependent step and of one cell; 0 for a step or cell that
    bounds nothing, or of which nothing is known."""

    read: float
    write: float
    chain_step: float
    cell: float

    def floor(self, work: Work) -> Floor:
        parts = {
            "memory": work.read_bytes / self.read + work.write_bytes / self.write,
            "chain": work.chain_steps * self.chain_step,
            "arithmetic": work.cells * self.cell,
        }
        bound_by = max(parts, key=lambda name: parts[name])
        return Floor(parts[bound_by], bound_by)
