"""Nothing compiles on the path of a request: a server that serves has all of its kernels."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import structlog

from alignd import wire
from alignd_kernels import compile_cache
from alignd_kernels.compile_cache import kernel
from alignd_kernels.threads import WorkerPool
from alignd_server import warm_up
from alignd_server.device import Device
from support.raw import ask
from support.server_process import ServerProcess

ANNOUNCED = "compiling the kernels for this machine, once"


def seconds(server: ServerProcess) -> float:
    return server.metric("alignd_kernel_compile_seconds")


def mas_requests(data_type: wire.DataType) -> Iterator[wire.MasRequest]:
    def request(*sizes: tuple[int, int], paths: bool = False) -> wire.MasRequest:
        tokens, frames = np.array(sizes).T
        values = np.zeros(int((tokens * frames).sum()), data_type.storage)
        return wire.MasRequest(values, data_type, tokens, frames, paths)

    yield request((1, 1))
    yield request((3, 7), (5, 4), (0, 0), (33, 65), paths=True)  # one that fails, an empty one
    yield request(*[(20, 100)] * 300)  # shared among threads
    yield request((300, 40_000))  # one long item


def ctc_requests(data_type: wire.DataType) -> Iterator[wire.CtcRequest]:
    def request(*sizes: tuple[int, int], V: int = 5, star: float | None = 0.0, stars: bool = False) -> wire.CtcRequest:
        frames, labels = np.array(sizes).T
        targets = np.tile(np.array([1, -1 if stars else 2], np.int32), int(labels.sum()))[: int(labels.sum())]
        log_probs = np.zeros(int(frames.sum()) * V, data_type.storage)
        return wire.CtcRequest(log_probs, data_type, frames, V, targets, labels, star_score=star)

    yield request((1, 1))
    yield request((9, 3), (2, 4), (4, 0), (70, 33))
    yield request(*[(100, 20)] * 300)
    yield request((20_000, 5_000))
    for V in (2, 15, 16, 17, 32, 33, 200):
        yield request((50, 7), V=V)
    for star in (0.0, -1.5, None):
        yield request((50, 7), star=star, stars=True)
        yield request((50, 7), V=100, star=star, stars=True)


def other_requests(data_type: wire.DataType) -> Iterator[tuple[wire.Rpc[Any, Any], Any]]:
    """Of the other families: what their kernels are told apart by."""
    storage, one, three, nine = data_type.storage, *(np.full(1, n, np.int64) for n in (1, 3, 9))
    yield wire.MAS_POSTERIORS, wire.MasRequest(np.zeros(27, storage), data_type, three, nine)
    speech = wire.CtcRequest(np.zeros(27, storage), data_type, nine, 3, np.array([1, 2, 1], np.int32), three)
    yield wire.CTC_POSTERIORS, speech
    for unit in (False, True):
        z, mean = np.zeros(18, storage), np.zeros(6, storage)
        sigmas = mean[:0] if unit else mean
        yield wire.MAXIMUM_PATH_FROM_LATENTS, wire.LatentsRequest(z, mean, sigmas, data_type, three, nine, 2, unit)
    for rpc in (wire.TRANSDUCER_ALIGN, wire.TRANSDUCER_POSTERIORS):
        for modified in (False, True):
            yield rpc, wire.TransducerRequest(np.zeros(2 * 9 * 4, storage), data_type, nine, three, modified)
    for mode in wire.AttentionMode:
        for log in (False, True)[: 1 if mode is wire.AttentionMode.STEPWISE else 2]:
            maps = np.zeros(2 * 27, storage)
            yield wire.ALIGN_ATTENTION, wire.AttentionRequest(maps, data_type, 2 * one, three, nine, mode, log)


def test_no_request_waits_for_a_kernel() -> None:
    with ServerProcess("--audio", "off", "--max-message-bytes", "200000000") as server:
        before = seconds(server)
        for data_type in wire.DataType:
            for mas in mas_requests(data_type):
                assert len(ask(server.target, wire.MAXIMUM_PATH, mas).statuses) == len(mas)
            for ctc in ctc_requests(data_type):
                assert len(ask(server.target, wire.FORCED_ALIGN, ctc).statuses) == len(ctc)
            for rpc, request in other_requests(data_type):
                assert len(ask(server.target, rpc, request).statuses) == 1
        assert seconds(server) == before
        # Neither for a compiler, nor for one that another test has left in the cache.
        assert "after the start" not in server.log, server.log


def test_kernels_that_are_missed_at_the_start_are_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def added(number: int) -> int:
        return number + 1

    monkeypatch.setattr(compile_cache, "cache_folder", lambda: tmp_path)
    try:
        with structlog.testing.capture_logs() as told:
            warm_up.tell_of_late_kernels()
            assert [kernel(added)(1), kernel(added)(1)] == [2, 2]
    finally:
        structlog.reset_defaults()
        compile_cache.report_to(lambda how, name, seconds: None)
    for how, said in zip(("compiled", "loaded"), told, strict=True):
        assert re.fullmatch(how + r" \S+added\(int64\) after the start, in \S+ s: a request had to.*", said["event"])


MISSING = "*_plan-*"
"""Kernels that are small and there in all types."""


@pytest.fixture(scope="module")
def nearly_complete(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of compiled kernels of which some are missing: to compile all would take minutes."""
    with ServerProcess("--audio", "off"):
        complete = compile_cache.cache_folder()
    folder: Path = tmp_path_factory.mktemp("kernels")
    shutil.copytree(complete, folder / "numba" / complete.name, ignore=shutil.ignore_patterns(MISSING, "complete-*"))
    folder.chmod(0o700)
    return folder


def test_kernels_are_compiled_at_the_first_start_and_loaded_at_the_next(nearly_complete: Path, tmp_path: Path) -> None:
    shutil.copytree(nearly_complete, tmp_path, dirs_exist_ok=True)
    environment = {"ALIGND_CACHE_DIR": str(tmp_path)}
    with ServerProcess("--audio", "off", environment=environment) as server:
        assert seconds(server) > 0
        assert ANNOUNCED in server.log
    with ServerProcess("--audio", "off", environment=environment) as again:
        assert seconds(again) == 0
        assert ANNOUNCED not in again.log


def test_what_another_process_compiles_is_loaded(nearly_complete: Path, tmp_path: Path) -> None:
    program = (
        "from alignd_server.warm_up import compile_only; compile_only(['float64']);"
        "from alignd_kernels import compile_seconds; print(compile_seconds())"
    )
    shutil.copytree(nearly_complete, tmp_path, dirs_exist_ok=True)
    environment = {**os.environ, "ALIGND_CACHE_DIR": str(tmp_path)}

    def compiled() -> float:
        # With a stdin that stays open: a process that compiles ends with the one that wants it.
        command = [sys.executable, "-c", program]
        with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout
            return float(process.stdout.read())

    first, second = compiled(), compiled()
    assert first > 0 == second


def test_a_process_that_compiles_ends_with_the_one_that_wants_it(tmp_path: Path) -> None:
    program = "from alignd_server.warm_up import compile_only; compile_only(['float64'])"
    environment = {**os.environ, "ALIGND_CACHE_DIR": str(tmp_path)}
    process = subprocess.Popen([sys.executable, "-c", program], env=environment, stdin=subprocess.PIPE)
    assert process.stdin
    process.stdin.close()  # as when its parent is killed
    assert process.wait(60) == 1


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[list[wire.DataType]]:
    """The types of each run of the kernels, which takes no time; nothing has been compiled yet."""
    found: list[list[wire.DataType]] = []
    monkeypatch.setattr(warm_up, "_run", lambda operations, devices, types: found.append(list(types)))
    monkeypatch.setattr(warm_up.compile_cache, "is_complete", lambda: False)
    monkeypatch.setattr(warm_up.compile_cache, "mark_complete", lambda: None)
    return found


ALL = list(wire.DataType)


@pytest.mark.parametrize("executable", ["", "/usr/bin/editor", "/nowhere/python", "false"])
def test_other_processes_that_do_not_come_or_fail(
    executable: str, runs: list[list[wire.DataType]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What they leave undone is compiled here."""
    if executable == "false":
        executable = str(tmp_path / "python3")
        os.symlink(shutil.which("false") or "", executable)
    monkeypatch.setattr(sys, "executable", executable)
    device = Device("cpu", "", "numba", None, 1 << 40, WorkerPool(2))
    warm_up.warm_up([], [device])
    shared = executable.endswith(("python", "python3"))
    assert runs == [ALL[::2] if shared else ALL, ALL, ALL]


def test_a_little_memory_is_not_shared(runs: list[list[wire.DataType]]) -> None:
    warm_up.warm_up([], [Device("cpu", "", "numba", None, 1 << 20, WorkerPool(2))])
    assert runs == [ALL, ALL, ALL]


def test_a_gpu_s_first_start_is_told_of(
    runs: list[list[wire.DataType]], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm_up.structlog, "is_configured", lambda: False)
    warm_up.warm_up([], [Device("cuda:0", "", "triton", "cuda:0", 1 << 40, None)])
    assert "the first start of all compiles them" in caplog.text
    assert runs == [ALL]


def test_no_process_outlives_a_start_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm_up, "PROGRAM", "import time; time.sleep(60)")
    before: list[psutil.Process] = []

    def start() -> None:
        with warm_up._compiling([[wire.DataType.FLOAT32]] * 2):
            before.extend(child for child in psutil.Process().children() if "import time" in " ".join(child.cmdline()))
            raise RuntimeError("fails")

    with pytest.raises(RuntimeError, match="fails"):
        start()
    assert len(before) == 2
    assert not any(child.is_running() for child in before)
