"""Counts and times of RPCs, under the names that the gRPC ecosystem's Prometheus interceptors use."""

import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
from prometheus_client import CollectorRegistry, Counter, Histogram

LABELS = ["grpc_type", "grpc_service", "grpc_method"]


class MetricsInterceptor(grpc.aio.ServerInterceptor):
    """Counts every call with a unary reply; streams of replies (health's Watch, reflection) are passed through."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._started = Counter("grpc_server_started_total", "RPCs started.", LABELS, registry=registry)
        self._handled = Counter(
            "grpc_server_handled_total", "RPCs completed.", [*LABELS, "grpc_code"], registry=registry
        )
        self._seconds = Histogram(
            "grpc_server_handling_seconds",
            "Time of RPCs from their headers to their reply.",
            LABELS,
            buckets=tuple(1e-4 * 2**i for i in range(20)),
            registry=registry,
        )

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        if handler is None or handler.response_streaming:
            return handler
        _, service, method = handler_call_details.method.split("/")
        # All RPCs of the contract are unary, whatever their handlers are.
        labels = ("unary", service, method)
        inner = handler.stream_unary if handler.request_streaming else handler.unary_unary
        make = (
            grpc.stream_unary_rpc_method_handler if handler.request_streaming else grpc.unary_unary_rpc_method_handler
        )
        return make(self._measured(inner, labels), handler.request_deserializer, handler.response_serializer)

    def _measured(self, inner: Any, labels: tuple[str, str, str]) -> Any:
        async def measured(request: Any, context: Any) -> Any:
            self._started.labels(*labels).inc()
            begin = time.perf_counter()
            code = grpc.StatusCode.CANCELLED
            try:
                reply = await inner(request, context)
                code = grpc.StatusCode.OK
                return reply
            except grpc.aio.AbortError:
                code = _code(context)
                raise
            except Exception:
                code = grpc.StatusCode.UNKNOWN
                raise
            finally:
                self._handled.labels(*labels, code.name).inc()
                self._seconds.labels(*labels).observe(time.perf_counter() - begin)

        return measured


def _code(context: Any) -> grpc.StatusCode:
    code = context.code()
    if isinstance(code, grpc.StatusCode):
        return code
    return next((known for known in grpc.StatusCode if known.value[0] == code), grpc.StatusCode.UNKNOWN)
