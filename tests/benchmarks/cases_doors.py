"""The same batches through every door, the engine in process and a server, each beside the bare kernel."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from alignd_kernels import ctc, mas
from alignd_kernels.threads import default_pool
from benchmarks.case import Case, Contestant, Target
from benchmarks.cases_ctc import CtcInputs, CtcShape
from benchmarks.cases_mas import MasInputs, MasShape, uniform
from benchmarks.measure import wall_clock

if TYPE_CHECKING:
    from alignd_client import AlignClient

KERNEL = "bare kernel"

LEAST_BATCHES = 16
"""Of several callers together: threads that begin and end count for little."""

Ask = Callable[["AlignClient", object], object]


class Door(NamedTuple):
    """A way to the kernels. Each has cases of its own: a server's turn on the same processors empties the caches for
    what comes after it, and who works in process has no server beside.

    Attributes:
        name: in the cases' names.
        title: heading of its table, and the contestant's name.
        open: a client, which ends with the stack.
        share: of the bare kernel's throughput, to be reached by the first case; None for none.
        callers: threads that ask at once, in a contestant of their own; 1 for none.
    """

    name: str
    title: str
    open: Callable[[ExitStack], AlignClient]
    share: float | None = None
    callers: int = 1

    @property
    def at_once(self) -> str:
        """That contestant's name."""
        return f"{self.title}, {self.callers} callers"


def in_process(stack: ExitStack) -> AlignClient:
    from alignd_client import AlignClient

    return stack.enter_context(AlignClient.in_process("cpu"))


def server(stack: ExitStack) -> AlignClient:
    from alignd_client import AlignClient
    from support.server_process import ServerProcess

    process = stack.enter_context(ServerProcess("--audio", "off"))
    return stack.enter_context(AlignClient(process.target))


DOORS = (Door("in-process", "in process", in_process, 0.8, 4), Door("server", "server", server))


def contestants(
    door: Door, stack: ExitStack, sets: Sequence[Any], items: int, kernel: Callable[[Any], object], ask: Ask
) -> list[Contestant]:
    """The kernel, a client that asks for the same, and one whom several threads ask at once."""
    asked = partial(ask, door.open(stack))
    found = [Contestant(KERNEL, "ours", kernel, items=items), Contestant(door.title, "ours", asked, items=items)]
    if door.callers > 1:
        batches = len(sets) * math.ceil(LEAST_BATCHES / len(sets))
        found.append(
            Contestant(
                door.at_once,
                "ours",
                several_at_once(stack, door.callers, sets, batches, asked),
                items=items,
                clock=lambda call: wall_clock(call) / batches,
            )
        )
    return found


def several_at_once(
    stack: ExitStack, callers: int, sets: Sequence[Any], batches: int, ask: Callable[[Any], object]
) -> Callable[[Any], None]:
    """Asks for `batches`, from the input set after the given one on: that is next, and so comes from memory again."""
    threads = stack.enter_context(ThreadPoolExecutor(callers))
    places = {id(inputs): place for place, inputs in enumerate(sets)}

    def work(places: Sequence[int]) -> None:
        for place in places:
            ask(sets[place % len(sets)])

    def call(inputs: object) -> None:
        after = places[id(inputs)] + 1
        for _ in threads.map(work, [range(after + caller, after + batches, callers) for caller in range(callers)]):
            pass

    return call


def mas_doors(door: Door, shape: MasShape, stack: ExitStack, sets: list[MasInputs]) -> list[Contestant]:
    batches = {id(inputs): inputs.batch() for inputs in sets}

    def kernel(inputs: object) -> object:
        return mas.align(batches[id(inputs)], pool=default_pool())

    def ask(client: AlignClient, inputs: object) -> object:
        assert isinstance(inputs, MasInputs)
        return list(client.align_mas(inputs.value))

    return contestants(door, stack, sets, len(shape.tokens), kernel, ask)


def ctc_doors(door: Door, shape: CtcShape, stack: ExitStack, sets: list[CtcInputs]) -> list[Contestant]:
    batches = {id(inputs): inputs.batch() for inputs in sets}

    def kernel(inputs: object) -> object:
        return ctc.align(batches[id(inputs)], pool=default_pool())

    def ask(client: AlignClient, inputs: object) -> object:
        assert isinstance(inputs, CtcInputs)
        return list(client.align_ctc(inputs.log_probs, inputs.targets))

    return contestants(door, stack, sets, shape.B, kernel, ask)


def targets(door: Door) -> tuple[Target, ...]:
    ways = (door.title, door.at_once) if door.callers > 1 else (door.title,)
    return tuple(Target(way, 1 / door.share, KERNEL) for way in ways) if door.share else ()


def cases() -> Iterator[Case]:
    for door in DOORS:
        group = f"doors, {door.title}"
        for name, title, B, T, S in (
            ("mas-32x800", "MAS, 32 × T=800, S=160", 32, 800, 160),
            ("mas-256x800", "MAS, 256 × T=800, S=160, as one array", 256, 800, 160),
            ("mas-2000x100", "MAS, 2,000 × T=100, S=20", 2000, 100, 20),
        ):
            shape = uniform(B, T, S)
            yield Case(
                f"doors-{door.name}-{name}",
                title,
                group,
                partial(MasInputs, shape),
                partial(mas_doors, door, shape),
                cells=shape.cells,
                quick=B == 32,
                baseline=KERNEL,
                targets=targets(door) if B == 32 else (),
            )
        for name, title, size in (
            ("ctc-64x1500", "CTC, 64 × T=1500, V=32, L=300", CtcShape(64, 1500, 32, 300)),
            ("ctc-2000x100", "CTC, 2,000 × T=100, V=32, L=20", CtcShape(2000, 100, 32, 20)),
        ):
            yield Case(
                f"doors-{door.name}-{name}",
                title,
                group,
                partial(CtcInputs, size),
                partial(ctc_doors, door, size),
                cells=size.cells,
                baseline=KERNEL,
            )
