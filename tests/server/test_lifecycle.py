"""Start, settings, what the server tells of itself, and how it ends."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status

from alignd import wire
from alignd.v1 import alignment_pb2 as pb
from alignd_kernels.threads import available_cpus
from alignd_server import __version__
from alignd_server.operations import alignments
from alignd_server.settings import Settings, keep_gpu_kernels
from support import reference_answers, workloads
from support.raw import ask
from support.server_process import GatedServer, ServerProcess
from support.waiting import eventually, started

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SMALL = workloads.small_mas(np.random.default_rng(4))


def run(*flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A server that is expected to end by itself."""
    return subprocess.run(
        [sys.executable, "-m", "alignd_server", *flags],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def sentence(process: subprocess.CompletedProcess[str]) -> str:
    """All that the process said: one line."""
    assert process.stdout == ""
    (line,) = process.stderr.splitlines()
    assert line.startswith("alignd-server: ")
    return line


# ---- The end. ----


class Watcher:
    """Follows the service's health, as load balancers do, until the server ends the call."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.seen: list[int] = []
        request = health_pb2.HealthCheckRequest(service=wire.SERVICE)
        self._replies = health_pb2_grpc.HealthStub(channel).Watch(request)
        self._thread = threading.Thread(target=self._follow)
        self._thread.start()

    def _follow(self) -> None:
        try:
            for reply in self._replies:
                self.seen.append(reply.status)
        except grpc.RpcError:
            return

    def join(self) -> None:
        self._thread.join(30)
        assert not self._thread.is_alive()


def test_on_sigterm_work_in_flight_is_answered() -> None:
    drain_s = 60
    with (
        GatedServer("--audio", "off", "--drain-s", str(drain_s)) as server,
        grpc.insecure_channel(server.target) as channel,
        grpc.insecure_channel(server.target) as other_channel,
    ):
        watcher = Watcher(other_channel)
        eventually(lambda: watcher.seen == [SERVING], "the first word of the health")
        server.close_gate()
        work = channel.unary_unary(wire.FORCED_ALIGN.path).future(
            wire.FORCED_ALIGN.encode_request(workloads.held()), timeout=120
        )
        eventually(lambda: started(server, "ctc") == 1, "the work to begin")
        server.process.terminate()
        eventually(lambda: watcher.seen == [SERVING, NOT_SERVING], "the health to change")
        with pytest.raises(grpc.RpcError) as caught:
            ask(server.target, wire.MAXIMUM_PATH, SMALL)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert not work.done()
        server.open_gate()
        reply = wire.FORCED_ALIGN.decode_reply(work.result())
        assert [status.code for status in reply.statuses] == [wire.ItemCode.OK]
        # Far below the drain's bound: a watcher of the health does not hold the server.
        assert server.process.wait(drain_s / 2) == 0
        watcher.join()
        assert [line["event"] for line in server.events()][-2:] == ["draining", "stopped"]


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_server_ends_at_once(stop: signal.Signals) -> None:
    with ServerProcess("--audio", "off", "--drain-s", "60") as server:
        server.process.send_signal(stop)
        assert server.process.wait(20) == 0


def test_work_past_the_drain_is_cut_off() -> None:
    with (
        GatedServer("--audio", "off", "--drain-s", "0.1") as server,
        grpc.insecure_channel(server.target) as channel,
    ):
        server.close_gate()
        work = channel.unary_unary(wire.FORCED_ALIGN.path).future(
            wire.FORCED_ALIGN.encode_request(workloads.held()), timeout=120
        )
        eventually(lambda: started(server, "ctc") == 1, "the work to begin")
        server.process.terminate()
        assert work.exception(timeout=60).code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
        assert server.process.wait(5) == 0


# ---- The start. ----


@pytest.mark.parametrize("what", ["listen", "metrics-listen"])
def test_a_port_that_is_taken(server: ServerProcess, what: str) -> None:
    taken = {"listen": server.target, "metrics-listen": server.metrics_url.split("/")[2]}[what]
    addresses = {"listen": "127.0.0.1:0", "metrics-listen": "127.0.0.1:0", what: taken}
    flags = [word for name, address in addresses.items() for word in (f"--{name}", address)]
    process = run("--audio", "off", "--device", "cpu", *flags)
    assert process.returncode == 1
    assert f"{taken} (--{what})" in sentence(process)
    assert "Address already in use" in process.stderr
    assert ask(server.target, wire.MAXIMUM_PATH, SMALL).statuses[0].ok  # the first one is not disturbed


@pytest.mark.parametrize(
    ("device", "words"),
    [("tpu", ["device tpu", "auto, cpu, cuda and cuda:N"]), ("cuda:99", ["device cuda:99", "cpu runs everywhere"])],
)
def test_an_unknown_device(device: str, words: list[str]) -> None:
    process = run("--device", device, "--listen", "127.0.0.1:0", "--metrics-listen", "off")
    assert process.returncode == 1
    assert all(word in sentence(process) for word in words)


@pytest.mark.parametrize(
    ("flags", "environment", "words"),
    [
        (["--listen", "nonsense"], {}, ["'nonsense'", "127.0.0.1:50051"]),
        (["--listen", "127.0.0.1:99999"], {}, ["99999"]),
        (["--metrics-listen", ":9464"], {}, ["':9464'"]),
        (["--threads", "-1"], {}, ["--threads", "greater than or equal to 0"]),
        (["--threads", "two"], {}, ["--threads", "integer"]),
        (["--batch-delay-ms", "nan"], {}, ["--batch-delay-ms"]),
        (["--max-message-bytes", "0"], {}, ["--max-message-bytes", "greater than 0"]),
        (["--max-queue-bytes", "1000"], {}, ["--max-queue-bytes", "--max-message-bytes"]),
        (["--audio", "maybe"], {}, ["--audio", "'auto', 'on' or 'off'"]),
        (["--threads", "-1", "--max-queue-items", "0"], {}, ["--threads", "--max-queue-items"]),
        ([], {"ALIGND_THREADS": "many"}, ["--threads", "integer"]),
    ],
    ids=str,
)
def test_bad_settings(flags: list[str], environment: dict[str, str], words: list[str]) -> None:
    process = run(*flags, **environment)
    assert process.returncode == 2
    assert all(word in sentence(process) for word in words)


def test_an_unknown_flag() -> None:
    process = run("--lisen", "127.0.0.1:0")
    assert process.returncode == 2
    assert process.stderr.splitlines()[-1] == "alignd-server: error: unrecognized arguments: --lisen 127.0.0.1:0"


def test_version() -> None:
    process = run("--version")
    assert (process.returncode, process.stdout) == (0, f"alignd-server {__version__}\n")


def test_help_lists_every_setting() -> None:
    process = run("--help", COLUMNS="500")
    assert process.returncode == 0
    for name, field in Settings.model_fields.items():
        assert f"--{name.replace('_', '-')} " in process.stdout
        assert field.description
        assert field.description in process.stdout


VALUES: dict[str, tuple[str, Any]] = {
    "listen": ("127.0.0.1:1", "127.0.0.1:1"),
    "metrics_listen": ("127.0.0.1:2", "127.0.0.1:2"),
    "device": ("cuda:1", "cuda:1"),
    "audio": ("off", "off"),
    "log_level": ("warning", "warning"),
    "log_format": ("json", "json"),
    "batch_delay_ms": ("1.5", 1.5),
    "payload_timeout_s": ("2.5", 2.5),
    "drain_s": ("3.5", 3.5),
    "max_queue_bytes": ("999999999", 999_999_999),
}


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_has_its_variable(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    said, meant = VALUES.get(name, ("12345", 12345))
    assert getattr(Settings(), name) != meant
    monkeypatch.setenv(f"ALIGND_{name.upper()}", said)
    assert getattr(Settings(), name) == meant


def test_where_a_gpus_kernels_are_kept(tmp_path: Path) -> None:
    def kept(**given: str) -> str | None:
        keep_gpu_kernels(given)
        return given.get("TRITON_CACHE_DIR")

    assert kept() is None
    assert kept(ALIGND_CACHE_DIR=str(tmp_path)) == str(tmp_path / "triton")
    assert kept(ALIGND_CACHE_DIR=str(tmp_path), TRITON_CACHE_DIR="/other") == "/other"
    tmp_path.chmod(0o777)  # anybody could put something there that would be executed
    assert kept(ALIGND_CACHE_DIR=str(tmp_path)) is None
    (tmp_path / "file").touch()
    assert kept(ALIGND_CACHE_DIR=str(tmp_path / "file")) is None


@pytest.fixture(scope="module")
def public_server() -> Iterator[ServerProcess]:
    """Set up by variables, as containers are; one of them overruled by a flag."""
    environment = {"ALIGND_MAX_MESSAGE_BYTES": "1234567", "ALIGND_MAX_QUEUE_ITEMS": "77", "ALIGND_AUDIO": "off"}
    environment |= {"ALIGND_QUEUE_BYTES": "5", "ALIGND_XYZ": "", "ALIGND_TARGET": "localhost:1"}
    environment |= {"ALIGND_SERVICE_HOST": "10.0.0.1", "ALIGND_PORT": "tcp://10.0.0.1:50051"}  # as Kubernetes does
    flags = ["--listen", "0.0.0.0:0", "--max-queue-items", "88", "--device", "auto"]
    with ServerProcess(*flags, environment=environment) as process:
        yield process


def test_variables_reach_the_server_and_flags_overrule_them(public_server: ServerProcess) -> None:
    limits = ask(public_server.target, wire.GET_SERVER_INFO, wire.ServerInfoRequest()).limits
    assert limits.max_message_bytes == 1_234_567
    assert limits.max_queue_items == 88


def test_a_public_address_is_warned_of(public_server: ServerProcess, server: ServerProcess) -> None:
    (warning,) = (event for event in public_server.events() if "address" in event and event["level"] == "warning")
    assert warning["address"] == "0.0.0.0:0"
    assert "without encryption or authentication" in str(warning["event"])
    assert not [event for event in server.events() if event["level"] == "warning"]


def test_variables_that_are_no_settings_are_warned_of(public_server: ServerProcess) -> None:
    warned = [event for event in public_server.events() if event["event"] == "no such setting"]
    assert [(event["level"], event["variable"], event.get("meant")) for event in warned] == [
        ("warning", "ALIGND_QUEUE_BYTES", "ALIGND_MAX_QUEUE_BYTES"),
        ("warning", "ALIGND_XYZ", None),
    ]


def test_the_auto_device_is_told(public_server: ServerProcess) -> None:
    info = ask(public_server.target, wire.GET_SERVER_INFO, wire.ServerInfoRequest())
    lines = [event["event"] for event in public_server.events() if "running on the CPU" in str(event["event"])]
    if info.devices[0].backend == "numba":
        assert lines == ["no CUDA device: running on the CPU"]
    else:
        assert lines == []


# ---- What it tells of itself. ----


def test_server_info(server: ServerProcess) -> None:
    info = ask(server.target, wire.GET_SERVER_INFO, wire.ServerInfoRequest())
    assert info.version == __version__
    assert [(device.id, device.backend) for device in info.devices] == [("cpu", "numba")]
    assert info.devices[0].name
    assert info.operations == tuple(operation.rpc.name for operation in alignments())  # audio is off
    assert info.models == ()
    defaults = Settings()
    assert info.limits == wire.Limits(
        defaults.max_message_bytes, defaults.max_queue_items, defaults.max_queue_bytes, defaults.max_batch_cells
    )


@pytest.mark.parametrize("service", ["", wire.SERVICE])
def test_health(server: ServerProcess, service: str) -> None:
    with grpc.insecure_channel(server.target) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        assert stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10).status == SERVING


def test_health_of_a_service_that_is_not_there(server: ServerProcess) -> None:
    with grpc.insecure_channel(server.target) as channel, pytest.raises(grpc.RpcError) as caught:
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service="alignd.v9.Nope"), timeout=10)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_reflection(server: ServerProcess) -> None:
    with grpc.insecure_channel(server.target) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert set(database.get_services()) == {
            wire.SERVICE,
            "grpc.health.v1.Health",
            "grpc.reflection.v1alpha.ServerReflection",
        }
        file = DescriptorPool(database).FindFileContainingSymbol(wire.SERVICE)
    assert file.serialized_pb == pb.DESCRIPTOR.serialized_pb


def test_an_answer_of_the_default_server(server: ServerProcess) -> None:
    reply = ask(server.target, wire.MAXIMUM_PATH, SMALL)
    assert reply.durations.tolist() == reference_answers.maximum_path(SMALL).durations.tolist()
    assert 0 < reply.timing.kernel_ns < reply.timing.total_ns
    assert 0 <= reply.timing.queue_ns < reply.timing.total_ns


def test_an_operation_that_is_switched_off_is_unimplemented() -> None:
    with ServerProcess("--audio", "off") as server, pytest.raises(grpc.RpcError) as raised:
        ask(server.target, wire.ALIGN_AUDIO, wire.AudioRequest(b"x", "hello"))
    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED
    details = raised.value.details()
    assert details.startswith("AlignAudio is not answered here; for audio, install 'alignd-server[audio]'")


def test_the_drain_does_not_outlast_its_time() -> None:
    request = workloads.held()
    with GatedServer("--audio", "off", "--drain-s", "1") as server, ThreadPoolExecutor(1) as pool:
        server.close_gate()
        answer = pool.submit(ask, server.target, wire.FORCED_ALIGN, request)
        eventually(lambda: started(server, "ctc") == 1, "the work to begin")
        begin = time.monotonic()
        assert server.terminate(timeout=30) == 0
        assert time.monotonic() - begin < 5
        with pytest.raises(grpc.RpcError) as raised:
            answer.result(30)
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE


def test_no_metrics() -> None:
    with ServerProcess("--audio", "off", metrics_listen="off") as server:
        assert server.wait_for_log("serving")["metrics_port"] == 0
        listening = [c for c in psutil.Process(server.process.pid).net_connections() if c.status == psutil.CONN_LISTEN]
        assert [c.laddr.port for c in listening] == [int(server.target.split(":")[1])]


def refusal_of(target: str, method: str) -> Any:
    with grpc.insecure_channel(target) as channel, pytest.raises(grpc.RpcError) as raised:
        channel.unary_unary(method)(b"", timeout=20)
    return raised.value


def test_a_server_that_compiles_says_so_and_ends_at_a_signal(tmp_path: Path) -> None:
    flags = ["--device", "cpu", "--log-format", "json", "--log-level", "debug"]
    flags += ["--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"]
    process = subprocess.Popen(
        [sys.executable, "-m", "alignd_server", *flags],
        env={**os.environ, "ALIGND_CACHE_DIR": str(tmp_path)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr
        listening = json.loads(next(line for line in process.stderr if '"listening"' in line))
        target = f"127.0.0.1:{listening['port']}"
        with grpc.insecure_channel(target) as channel:
            checked = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=20)
        assert checked.status == NOT_SERVING
        for rpc, request in ((wire.MAXIMUM_PATH, SMALL), (wire.GET_SERVER_INFO, wire.ServerInfoRequest())):
            with pytest.raises(grpc.RpcError) as raised:
                ask(target, rpc, request)
            assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
            assert "the server is starting" in raised.value.details()
            (detail,) = rpc_status.from_call(raised.value).details
            retry = error_details_pb2.RetryInfo()
            assert detail.Unpack(retry)
            assert retry.retry_delay.ToTimedelta().total_seconds() == 1
        for unknown in ("Nope", "Nope/again"):
            assert refusal_of(target, f"/{wire.SERVICE}/{unknown}").code() is grpc.StatusCode.UNIMPLEMENTED
        with urllib.request.urlopen(f"http://127.0.0.1:{listening['metrics_port']}/metrics", timeout=20) as reply:
            told = reply.read().decode()
        assert "alignd_build_info" in told
        assert "Nope" not in told
        # The cache's folder is made when the first kernel is asked for.
        eventually(lambda: any(tmp_path.iterdir()), "the first kernel", 60)
        others = min(available_cpus(), len(wire.DataType)) - 1
        eventually(lambda: len(psutil.Process(process.pid).children()) == others, "others compile too", 10)
        children = psutil.Process(process.pid).children()
        begin = time.monotonic()
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=30)
        assert process.returncode == 0
        assert time.monotonic() - begin < 5
        assert "stopped while starting" in log
        assert "serving" not in log
        eventually(lambda: not any(child.is_running() for child in children), "its processes have ended", 10)
    finally:
        process.kill()
