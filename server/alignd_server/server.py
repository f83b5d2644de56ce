"""The server process: engine, gRPC, health, reflection and metrics, from start to drain."""

import asyncio
import signal
import socket
import threading
from typing import Any

import grpc
import grpc.aio
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import disable_created_metrics, start_http_server

from alignd import wire
from alignd_server import __version__
from alignd_server.engine import Engine, create_engine
from alignd_server.errors import DeviceLostError
from alignd_server.interceptor import MetricsInterceptor
from alignd_server.metrics import Metrics
from alignd_server.operations import alignments
from alignd_server.service import AlignmentHandlers, Doorway
from alignd_server.settings import OFF, Settings, is_loopback, split_address
from alignd_server.warm_up import tell_of_late_kernels

log = structlog.get_logger("alignd.server")

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

EXIT_DEVICE_LOST = 70

ARRIVED_S = 0.2
"""How long a call may take from its arrival to its handler."""

REPLIES_S = 1.0
"""How long the last replies may take to leave."""


class Server:
    """Runs until a signal asks it to stop, or its device is lost."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._health = health.aio.HealthServicer()
        self._stop = asyncio.Event()
        self._exit_code = 0
        self._loop = asyncio.get_running_loop()
        self.port = 0
        self.metrics_port = 0

    async def run(self) -> int:
        """Returns the process's exit code."""
        settings = self._settings
        await self._set_health(NOT_SERVING)
        for sign in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(sign, self._stop.set)
        # An address that is taken is told at once, not after the kernels are compiled.
        for flag, address in settings.addresses().items():
            _check_free(address, flag)
        # Else every counter and histogram has a second sample, which nobody asks for.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        metrics = Metrics()
        rpcs = [*(operation.rpc for operation in alignments()), wire.ALIGN_AUDIO]
        server, doorway = self._grpc_server(metrics), Doorway(rpcs)
        server.add_generic_rpc_handlers((doorway,))
        self.port = _bind(server, settings.listen)
        metrics_server = self._serve_metrics(metrics)
        # Ahead of the engine, so that whoever asks is told that the server starts, not that there is none.
        await server.start()
        log.debug("listening", port=self.port, metrics_port=self.metrics_port)
        try:
            engine = await self._start_engine(metrics)
        except BaseException:
            await server.stop(0)
            raise
        if engine is None:
            await server.stop(0)
            log.info("stopped while starting", exit_code=0)
            return 0
        handlers = doorway.handlers = AlignmentHandlers(engine, rpcs, settings.payload_timeout_s)
        await self._set_health(SERVING)
        self._announce(engine)
        await self._stop.wait()
        log.info("draining", seconds=settings.drain_s, items=engine.admission.items)
        await self._set_health(NOT_SERVING)
        begin = self._loop.time()
        await self._drain(server, handlers)
        await asyncio.to_thread(engine.close, max(0.0, settings.drain_s - (self._loop.time() - begin)))
        if metrics_server:
            metrics_server.shutdown()
        log.info("stopped", exit_code=self._exit_code)
        return self._exit_code

    async def _start_engine(self, metrics: Metrics) -> Engine | None:
        """The engine once its kernels are warm; None if a signal comes first."""
        made: asyncio.Future[Engine] = self._loop.create_future()

        def make() -> None:
            try:
                engine = self._create_engine(metrics)
                tell_of_late_kernels()
            except BaseException as error:
                self._loop.call_soon_threadsafe(made.set_exception, error)
            else:
                self._loop.call_soon_threadsafe(made.set_result, engine)

        # A daemon, so that a signal need not wait for the compiler.
        threading.Thread(target=make, name="alignd-start", daemon=True).start()
        stopped = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait((made, stopped), return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        return made.result() if made.done() else None

    def _create_engine(self, metrics: Metrics) -> Engine:
        settings = self._settings
        return create_engine(
            settings.device,
            threads=settings.threads or None,
            memory_bytes=settings.device_memory_bytes or None,
            limits=settings.engine_limits(),
            metrics=metrics,
            audio={"auto": None, "on": True, "off": False}[settings.audio],
            on_lost=self._lose,
        )

    def _grpc_server(self, metrics: Metrics) -> grpc.aio.Server:
        settings = self._settings
        server = grpc.aio.server(
            interceptors=[MetricsInterceptor(metrics.registry)],
            options=[
                ("grpc.max_receive_message_length", settings.max_message_bytes),
                ("grpc.max_send_message_length", -1),  # the work is done: let its answer go
                ("grpc.so_reuseport", 0),  # a second server on the port is an error, not a rival
                ("grpc.keepalive_time_ms", 20_000),
                ("grpc.keepalive_timeout_ms", 10_000),
                ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
            ],
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        names = (wire.SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
        return server

    async def _drain(self, server: grpc.aio.Server, handlers: AlignmentHandlers) -> None:
        """Take no more calls, and end when those in flight are answered."""
        stopping = asyncio.ensure_future(server.stop(self._settings.drain_s))
        idle = asyncio.ensure_future(self._idle(handlers))
        await asyncio.wait((stopping, idle), return_when=asyncio.FIRST_COMPLETED)
        idle.cancel()
        # Those who watch the health would hold the server until the end of the drain.
        await server.stop(min(REPLIES_S, self._settings.drain_s))
        await stopping

    async def _idle(self, handlers: AlignmentHandlers) -> None:
        """Until no call is in flight, those included that have arrived and whose handlers are yet to run."""
        await asyncio.sleep(min(ARRIVED_S, self._settings.drain_s))
        await handlers.idle()

    def _serve_metrics(self, metrics: Metrics) -> Any:
        if self._settings.metrics_listen == OFF:
            return None
        host, port = split_address(self._settings.metrics_listen)
        # A thread of its own: scrapes never wait behind work.
        try:
            server, _ = start_http_server(port, host, metrics.registry)
        except OSError as error:
            raise OSError(f"cannot serve metrics on {self._settings.metrics_listen}: {error.strerror}") from None
        self.metrics_port = server.server_port
        return server

    def _announce(self, engine: Engine) -> None:
        settings = self._settings
        if settings.device == "auto" and engine.devices[0].backend == "numba":
            log.info("no CUDA device: running on the CPU", processor=engine.devices[0].name)
        for address in settings.addresses().values():
            if not is_loopback(address):
                log.warning("listening on a public address without encryption or authentication", address=address)
        log.info(
            "serving",
            version=__version__,
            host=split_address(settings.listen)[0],
            port=self.port,
            metrics_port=self.metrics_port,
            devices=[device.id for device in engine.devices],
            threads=[device.pool.threads for device in engine.devices if device.pool],
            operations=list(engine.info().operations),
        )

    def _lose(self, error: DeviceLostError) -> None:
        # Called in a worker's thread.
        self._exit_code = EXIT_DEVICE_LOST
        self._loop.call_soon_threadsafe(self._stop.set)

    async def _set_health(self, status: Any) -> None:
        for service in ("", wire.SERVICE):
            await self._health.set(service, status)


def _bind(server: grpc.aio.Server, address: str) -> int:
    try:
        port: int = server.add_insecure_port(address)
        return port
    except RuntimeError:
        raise OSError(f"cannot listen on {address}: the address is not available") from None


def _check_free(address: str, flag: str) -> None:
    """Raises `OSError` with the reason, which gRPC tells its own log alone."""
    try:
        host, port = split_address(address)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.create_server((host, port), family=family):
            pass
    except OSError as error:
        raise OSError(f"cannot listen on {address} ({flag}): {error.strerror or error}") from None
