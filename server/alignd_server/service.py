"""The gRPC door: AlignmentService over raw messages.

Handlers take a stream of requests, although the contract's RPCs are unary (on the wire there is no difference): only so
can a call be refused before its message is read, since gRPC reads a unary request whole before its handler runs.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import fields
from functools import partial
from typing import Any, NoReturn

import grpc
import grpc.aio
import structlog

from alignd.wire import BYTES_METADATA, GET_SERVER_INFO, SERVICE, MalformedRequestError, Rpc
from alignd_server.admission import Reservation
from alignd_server.engine import Engine
from alignd_server.errors import OverloadedError
from alignd_server.jobs import Job
from alignd_server.rejection import Rejection, rejection, starting, too_large

log = structlog.get_logger("alignd.service")

Context = grpc.aio.ServicerContext[Any, Any]

MAX_DIGITS = 20
"""Of a number of bytes: more than 64 bits have. (Python refuses to read thousands.)"""

LARGE_BYTES = 1 << 20
"""Messages from here on are decoded and encoded off the loop: that takes a millisecond and more."""

GONE_S = 0.01
"""How soon after the end of its stream a call that is over is cancelled."""


class AlignmentHandlers(grpc.GenericRpcHandler):
    """Routes AlignmentService's calls to an engine. Lives on one event loop."""

    def __init__(self, engine: Engine, rpcs: Sequence[Rpc[Any, Any]], payload_timeout_s: float) -> None:
        self._engine = engine
        self._payload_timeout_s = payload_timeout_s
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[Job, asyncio.Future[Job]] = {}
        self._calls = 0
        self._idle = asyncio.Event()
        self._idle.set()
        handlers: dict[str, Any] = {}
        for rpc in rpcs:
            handlers[rpc.path] = grpc.stream_unary_rpc_method_handler(self._align(rpc))
        handlers[GET_SERVER_INFO.path] = grpc.unary_unary_rpc_method_handler(self._info)
        self._handlers = handlers

    def service_name(self) -> str:
        return SERVICE

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return self._handlers.get(handler_call_details.method)

    async def _info(self, data: bytes, context: Context) -> bytes:
        return GET_SERVER_INFO.encode_reply(self._engine.info())

    def _align(self, rpc: Rpc[Any, Any]) -> Any:
        async def align(requests: AsyncIterator[bytes], context: Context) -> bytes:
            self._calls += 1
            self._idle.clear()
            try:
                return await self._call(rpc, context)
            except (grpc.aio.AbortError, asyncio.CancelledError):
                raise
            except Exception as error:
                self._count_rejection(rpc, error)
                why = rejection(error)
                if why.code is grpc.StatusCode.INTERNAL:
                    log.error("a call failed", method=rpc.name, exc_info=error)
                await _abort(context, why)
            finally:
                self._calls -= 1
                if not self._calls:
                    self._idle.set()

        return align

    async def idle(self) -> None:
        """Wait until no alignment is in flight."""
        await self._idle.wait()

    async def _call(self, rpc: Rpc[Any, Any], context: Context) -> bytes:
        deadline = _deadline(context)
        reservation = self._engine.admission.reserve(await self._promised_bytes(context))
        try:
            data = await self._message(context, reservation)
            decode = partial(rpc.decode_request, max_items=self._engine.limits.max_queue_items)
            request = await self._off_loop(decode, data, len(data))
            del data
        except BaseException:
            reservation.release()
            raise
        job = self._engine.admit(rpc.name, request, sink=self._sink, deadline=deadline, reservation=reservation)
        del request  # the engine's alone, to free when it is done
        done: asyncio.Future[Job] = self._loop.create_future()
        self._waiting[job] = done
        try:
            await done
        except asyncio.CancelledError:
            self._engine.cancel(job)
            raise
        finally:
            self._waiting.pop(job, None)
        if job.error is not None:
            raise job.error
        reply: bytes = await self._off_loop(rpc.encode_reply, job.reply, max(job.cost.nbytes, _nbytes(job.reply)))
        return reply

    async def _off_loop(self, codec: Callable[[Any], Any], value: Any, nbytes: int) -> Any:
        """`codec(value)`, in another thread where it takes so long that health checks would wait."""
        if nbytes < LARGE_BYTES:
            return codec(value)
        return await self._loop.run_in_executor(None, codec, value)

    async def _promised_bytes(self, context: Context) -> int:
        """What the client says its message has; the message limit if it says nothing."""
        limit = self._engine.limits.max_message_bytes
        said = dict(context.invocation_metadata() or ()).get(BYTES_METADATA)
        if said is None:
            return limit
        if not str(said).isdecimal() or len(said) > MAX_DIGITS:
            raise MalformedRequestError((BYTES_METADATA, f"{str(said)[:MAX_DIGITS]!r} is no number of bytes"))
        nbytes = int(said)
        if nbytes > limit:
            await _abort(context, too_large(nbytes, limit))
        return nbytes

    async def _message(self, context: Context, reservation: Reservation) -> bytes:
        promised = reservation.nbytes
        try:
            # Not wait_for, which drops a cancellation that comes with the end of the stream (Python 3.11).
            async with asyncio.timeout(self._payload_timeout_s):
                data = await context.read()
        except TimeoutError:
            message = f"the message did not arrive within {self._payload_timeout_s:g} s"
            await _abort(context, Rejection(grpc.StatusCode.DEADLINE_EXCEEDED, message))
        if data is grpc.aio.EOF:
            # A client that is gone, whose call is cancelled here, or a call without a message.
            await asyncio.sleep(GONE_S)
            raise MalformedRequestError(("", "the call ended without a message"))
        if len(data) > promised:
            raise MalformedRequestError((BYTES_METADATA, f"{promised} bytes promised, {len(data)} sent"))
        reservation.resize(len(data))
        return bytes(data)

    def _sink(self, jobs: Sequence[Job]) -> None:
        # One wake-up of the loop for all jobs of a batch.
        try:
            self._loop.call_soon_threadsafe(self._deliver, jobs)
        except RuntimeError:  # the loop is closed: nobody waits any more
            return

    def _deliver(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            done = self._waiting.get(job)
            if done is not None and not done.done():
                done.set_result(job)

    def _count_rejection(self, rpc: Rpc[Any, Any], error: Exception) -> None:
        reason = "malformed" if isinstance(error, MalformedRequestError) else None
        if isinstance(error, OverloadedError):
            reason = error.reason
        if reason:
            log.debug("rejected", method=rpc.name, reason=reason, error=str(error))
            self._engine.metrics.rejected.labels(self._engine.short_name(rpc.name), reason).inc()


def _nbytes(reply: Any) -> int:
    """Of its arrays."""
    return sum(getattr(getattr(reply, field.name), "nbytes", 0) for field in fields(reply))


def _deadline(context: Context) -> float | None:
    remaining: float | None = context.time_remaining()  # None without a deadline, whatever the stubs say
    return None if remaining is None else time.monotonic() + remaining


class Doorway(grpc.GenericRpcHandler):
    """AlignmentService from the moment that the server listens: until `handlers` are there, calls are told to come
    again.

    Attributes:
        handlers: None while the server starts.
    """

    def __init__(self, rpcs: Sequence[Rpc[Any, Any]]) -> None:
        self.handlers: AlignmentHandlers | None = None
        self._paths = frozenset((GET_SERVER_INFO.path, *(rpc.path for rpc in rpcs)))

    def service_name(self) -> str:
        return SERVICE

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        if self.handlers is not None:
            return self.handlers.service(handler_call_details)
        return _STARTING if handler_call_details.method in self._paths else None


async def _come_again(requests: AsyncIterator[bytes], context: Context) -> NoReturn:
    await _abort(context, starting())


_STARTING: Any = grpc.stream_unary_rpc_method_handler(_come_again)


async def _abort(context: Context, why: Rejection) -> NoReturn:
    await context.abort(why.code, why.message, why.trailers)
    raise AssertionError("abort raises")
