"""The same batches through every door: the bare kernel, the engine in process, and a server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

from alignd_kernels import ctc, mas
from alignd_kernels.threads import default_pool
from benchmarks.case import Case, Contestant
from benchmarks.cases_ctc import CtcInputs, CtcShape
from benchmarks.cases_mas import MasInputs, MasShape, uniform

if TYPE_CHECKING:
    from alignd_client import AlignClient

GROUP = "doors"
KERNEL = "bare kernel"


def door_contestants(
    stack: ExitStack, items: int, kernel: Callable[[object], object], ask: Callable[[AlignClient, object], object]
) -> list[Contestant]:
    """The kernel and two clients; server and clients end with the stack."""
    from alignd_client import AlignClient
    from support.server_process import ServerProcess

    process = stack.enter_context(ServerProcess("--audio", "off"))
    server = stack.enter_context(AlignClient(process.target))
    local = AlignClient.in_process("cpu")
    stack.callback(local.close)
    return [
        Contestant(KERNEL, "ours", kernel, items=items),
        Contestant("in process", "ours", lambda inputs: ask(local, inputs), items=items),
        Contestant("server", "ours", lambda inputs: ask(server, inputs), items=items),
    ]


def mas_doors(shape: MasShape, stack: ExitStack, sets: list[MasInputs]) -> list[Contestant]:
    batches = {id(inputs): inputs.batch() for inputs in sets}

    def kernel(inputs: object) -> object:
        return mas.align(batches[id(inputs)], pool=default_pool())

    def ask(client: AlignClient, inputs: object) -> object:
        assert isinstance(inputs, MasInputs)
        return list(client.align_mas(inputs.value))

    return door_contestants(stack, len(shape.tokens), kernel, ask)


def ctc_doors(shape: CtcShape, stack: ExitStack, sets: list[CtcInputs]) -> list[Contestant]:
    batches = {id(inputs): inputs.batch() for inputs in sets}

    def kernel(inputs: object) -> object:
        return ctc.align(batches[id(inputs)], pool=default_pool())

    def ask(client: AlignClient, inputs: object) -> object:
        assert isinstance(inputs, CtcInputs)
        return list(client.align_ctc(inputs.log_probs, inputs.targets))

    return door_contestants(stack, shape.B, kernel, ask)


def cases() -> Iterator[Case]:
    for name, title, B, T, S in (
        ("mas-32x800", "MAS, 32 × T=800, S=160", 32, 800, 160),
        ("mas-256x800", "MAS, 256 × T=800, S=160, as one array", 256, 800, 160),
        ("mas-2000x100", "MAS, 2,000 × T=100, S=20", 2000, 100, 20),
    ):
        shape = uniform(B, T, S)
        yield Case(
            f"doors-{name}",
            title,
            GROUP,
            partial(MasInputs, shape),
            partial(mas_doors, shape),
            cells=shape.cells,
            quick=B == 32,
            baseline=KERNEL,
        )
    for name, title, size in (
        ("ctc-64x1500", "CTC, 64 × T=1500, V=32, L=300", CtcShape(64, 1500, 32, 300)),
        ("ctc-2000x100", "CTC, 2,000 × T=100, V=32, L=20", CtcShape(2000, 100, 32, 20)),
    ):
        yield Case(
            f"doors-{name}",
            title,
            GROUP,
            partial(CtcInputs, size),
            partial(ctc_doors, size),
            cells=size.cells,
            baseline=KERNEL,
        )
