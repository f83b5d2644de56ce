"""Kernels compiled or loaded before anything is served.

Compiling is mostly Python's own work, one thread at a time; so where nothing is compiled yet, several processes share
the element types, and what they leave in the cache is loaded.
"""

import contextlib
import logging
import subprocess
import sys
from collections.abc import Iterator, Sequence
from subprocess import DEVNULL
from typing import Final

import structlog

from alignd import wire
from alignd_kernels import compile_cache
from alignd_server.device import Device
from alignd_server.operation import AnyOperation

log = structlog.get_logger("alignd.warm_up")

PROCESS_BYTES: Final = 512 << 20
"""More than a process that compiles takes."""

LIMIT_S: Final = 300
"""For a process that compiles. What it has not left behind is compiled here."""

PROGRAM: Final = f"import sys; sys.path[:] = {{!r}}; from {__name__} import compile_only; compile_only(sys.argv[1:])"


def warm_up(operations: Sequence[AnyOperation], devices: Sequence[Device]) -> None:
    """Compile or load every kernel in use, and see that it answers.

    Raises:
        RuntimeError: a kernel gives no answer.
    """
    types = list(wire.DataType)
    cpu = next((device for device in devices if device.pool), None)
    if cpu and compile_cache.is_empty():
        _announce()
        processes = max(1, min(len(types), cpu.pool.threads, cpu.memory_bytes // PROCESS_BYTES)) if cpu.pool else 1
        own, *others = [types[start::processes] for start in range(processes)]
        with _compiling(others):
            _run(operations, [cpu], own)
    _run(operations, devices, types)


def _announce() -> None:
    message = "compiling the kernels for this machine, once: takes up to a minute"
    if structlog.is_configured():
        log.info(message)
    else:  # in somebody's own process, whose stdout is theirs
        logging.getLogger("alignd").warning(message)


@contextlib.contextmanager
def _compiling(shares: Sequence[Sequence[wire.DataType]]) -> Iterator[None]:
    """Other processes that each compile the kernels for some types, until the end of this."""
    started: list[subprocess.Popen[bytes]] = []
    try:
        for types in shares if _python() else ():
            arguments = [sys.executable, "-c", PROGRAM.format(sys.path), *(data_type.value for data_type in types)]
            with contextlib.suppress(OSError):
                started.append(subprocess.Popen(arguments, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL))
        yield
        for process in started:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(LIMIT_S)
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()
                process.wait()


def _python() -> bool:
    """Whether another interpreter can be started as this one was."""
    return bool(sys.executable) and not getattr(sys, "frozen", False)


def compile_only(types: Sequence[str]) -> None:
    """Leave the kernels of all operations for these types in the cache: what the other processes do."""
    from alignd_server.device import find_devices
    from alignd_server.operations import CtcOperation, MasOperation

    _run([MasOperation(), CtcOperation()], find_devices("cpu", 1), [wire.DataType(name) for name in types])


def _run(operations: Sequence[AnyOperation], devices: Sequence[Device], types: Sequence[wire.DataType]) -> None:
    for operation in operations:
        for device in devices:
            for data_type in types:
                example = operation.example(data_type)
                operation.cost(example, device)
                (reply,) = operation.run([example], device, alone=True).replies
                if not reply.statuses[0].ok:
                    raise RuntimeError(
                        f"{operation.name} fails on {device.id} ({data_type.value}): {reply.statuses[0]}"
                    )
