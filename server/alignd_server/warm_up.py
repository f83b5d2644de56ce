"""Kernels compiled or loaded before anything is served.

Compiling is mostly Python's own work, one thread at a time; so where nothing is compiled yet, several processes share
the element types, and what they leave in the cache is loaded.
"""

import contextlib
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import Any, Final

import structlog

from alignd import wire
from alignd_kernels import compile_cache
from alignd_server.device import Device
from alignd_server.operations import backends
from alignd_server.operations.family import FamilyOperation
from alignd_server.operations.ragged import DTYPES

AnyFamily = FamilyOperation[Any, Any]

log = structlog.get_logger("alignd.warm_up")

PROCESS_BYTES: Final = 512 << 20
"""More than a process that compiles takes."""

LIMIT_S: Final = 300
"""For the processes that compile. What they have not left behind is compiled here."""

PROGRAM: Final = f"import sys; sys.path[:] = {{!r}}; from {__name__} import compile_only; compile_only(sys.argv[1:])"

INTERPRETER_FLAGS: Final = {"isolated": "-I", "ignore_environment": "-E", "no_user_site": "-s", "no_site": "-S"}


def warm_up(operations: Sequence[AnyFamily], devices: Sequence[Device]) -> None:
    """Compile or load every kernel in use, and see that it answers.

    Raises:
        RuntimeError: a kernel gives no answer.
    """
    types = list(wire.DataType)
    cpu = next((device for device in devices if device.pool), None)
    if cpu and not compile_cache.is_complete():
        _say("compiling the kernels for this machine, once: takes one to three minutes")
        with compile_cache.compiling_alone():
            _compile(operations, cpu, types)
    if any((device.torch_device or "").startswith("cuda") for device in devices):
        _say("loading the GPU's kernels; the first start of all compiles them, which takes about eight minutes")
    for device in devices:
        for operation in operations:
            backends.warm_up(operation.room, device, operation.kernels)
    _run(operations, devices, types)


def tell_of_late_kernels() -> None:
    """Log each of the CPU's kernels that is compiled or loaded from now on: where requests alone ask for any."""
    compile_cache.report_to(_say_late)


def _say_late(how: str, kernel: str, seconds: float) -> None:
    log.warning(f"{how} {kernel} after the start, in {seconds:.1f} s: a request had to wait for it")


def _compile(operations: Sequence[AnyFamily], cpu: Device, types: Sequence[wire.DataType]) -> None:
    if not compile_cache.is_complete():  # meanwhile, by another process
        own, *others = [types[start :: _processes(cpu)] for start in range(_processes(cpu))]
        with _compiling(others):
            _run(operations, [cpu], own)
    _run(operations, [cpu], types)
    compile_cache.mark_complete()


def _processes(cpu: Device) -> int:
    """How many may compile at a time."""
    # Where no path is known to be Python's, or nothing is left behind for this one, others are of no use.
    name = Path(sys.executable or "").name.lower()
    if getattr(sys, "frozen", False) or not name.startswith(("python", "pypy")) or not compile_cache.lasts():
        return 1
    threads = cpu.pool.threads if cpu.pool else 1
    return max(1, min(len(wire.DataType), threads, cpu.memory_bytes // PROCESS_BYTES))


def _say(message: str) -> None:
    if structlog.is_configured():
        log.info(message)
    else:  # in somebody's own process, whose stdout is theirs
        logging.getLogger("alignd").warning(message)


@contextlib.contextmanager
def _compiling(shares: Sequence[Sequence[wire.DataType]]) -> Iterator[None]:
    """Other processes that each compile the kernels for some types, until the end of this."""
    flags = [flag for name, flag in INTERPRETER_FLAGS.items() if getattr(sys.flags, name)]
    program = PROGRAM.format([str(entry) for entry in sys.path])
    started: list[subprocess.Popen[bytes]] = []
    try:
        for types in shares:
            arguments = [sys.executable, *flags, "-c", program, *(data_type.value for data_type in types)]
            with contextlib.suppress(OSError):
                started.append(subprocess.Popen(arguments, stdin=PIPE, stdout=DEVNULL, stderr=DEVNULL))
        yield
        _wait(started)
    finally:
        for process in started:
            with process:  # closes its stdin, and so ends it too
                process.kill()


def _wait(started: Sequence["subprocess.Popen[bytes]"]) -> None:
    end = time.monotonic() + LIMIT_S
    for process in started:
        try:
            code = process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            code = -1
        if code:
            _say(f"a process that compiles kernels ended with {code}: its share is compiled here")


def compile_only(types: Sequence[str]) -> None:
    """Leave the kernels of all operations for these types in the cache: what the other processes do, as long as the one
    that wants it is there and keeps their stdin open."""
    from alignd_server.device import find_devices
    from alignd_server.operations import alignments

    threading.Thread(target=_end_with_stdin, daemon=True).start()
    _run(alignments(), find_devices("cpu", 1), [wire.DataType(name) for name in types])


def _end_with_stdin() -> None:
    os.read(0, 1)
    os._exit(1)


def _run(operations: Sequence[AnyFamily], devices: Sequence[Device], types: Sequence[wire.DataType]) -> None:
    for operation in operations:
        for device in devices:
            for data_type in types:
                backends.compile_for(operation.room, device, operation.kernels, DTYPES[data_type])
                example = operation.example(data_type)
                operation.cost(example, device)
                (reply,) = operation.run([example], device, alone=True).replies
                if not reply.statuses[0].ok:
                    raise RuntimeError(
                        f"{operation.name} fails on {device.id} ({data_type.value}): {reply.statuses[0]}"
                    )
