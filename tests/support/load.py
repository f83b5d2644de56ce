"""Load on a server, out of a process of its own: `python -m support.load clients|health TARGET …`.

Both print one line of JSON when they are done.
"""

import asyncio
import json
import select
import sys
import time
from typing import Any

import grpc
import grpc.aio
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc

from alignd import wire
from support import reference_answers, workloads

KINDS = 300
"""Different requests, so that neighbours in a batch are never the same."""


def right(rpc: Any, data: bytes, expected: Any) -> bool:
    reply = rpc.decode_reply(data)
    parts = ["durations", "scores"] + (["paths", "frame_scores"] if rpc is wire.FORCED_ALIGN else [])
    return reply.statuses[0].ok and all(
        getattr(reply, part).tolist() == getattr(expected, part).tolist() for part in parts
    )


def questions() -> list[tuple[Any, bytes, Any]]:
    """RPC, message, and the reference's answer."""
    rng = np.random.default_rng(5)
    asked: list[tuple[Any, bytes, Any]] = []
    for _ in range(KINDS // 2):
        mas, ctc = workloads.small_mas(rng), workloads.small_ctc(rng)
        asked.append((wire.MAXIMUM_PATH, wire.MAXIMUM_PATH.encode_request(mas), reference_answers.maximum_path(mas)))
        asked.append((wire.FORCED_ALIGN, wire.FORCED_ALIGN.encode_request(ctc), reference_answers.forced_align(ctc)))
    return asked


async def clients(target: str, first: int, last: int, requests: int) -> dict[str, float]:
    """Clients `first` … `last` − 1, each with a connection of its own and `requests` calls, one after the other."""
    asked = questions()
    wrong = 0

    async def client(number: int) -> None:
        nonlocal wrong
        own_connection = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(target, own_connection) as channel:
            for i in range(requests):
                rpc, message, expected = asked[(number * 7 + i) % KINDS]
                metadata = ((wire.BYTES_METADATA, str(len(message))),)
                data = await channel.unary_unary(rpc.path)(message, timeout=60, metadata=metadata)
                wrong += not right(rpc, data, expected)

    begin = time.perf_counter()
    await asyncio.gather(*(client(number) for number in range(first, last)))
    return {"answered": (last - first) * requests, "wrong": wrong, "seconds": time.perf_counter() - begin}


def health(target: str) -> dict[str, list[float]]:
    """Check the health every 20 ms until stdin closes; latencies in seconds."""
    latencies = []
    with grpc.insecure_channel(target) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        request = health_pb2.HealthCheckRequest(service=wire.SERVICE)
        check(request, timeout=10)  # connects
        print("ready", flush=True)
        while not select.select([sys.stdin], [], [], 0.02)[0]:
            begin = time.perf_counter()
            reply = check(request, timeout=10)
            latencies.append(time.perf_counter() - begin)
            assert reply.status == health_pb2.HealthCheckResponse.SERVING
    return {"latencies": latencies}


if __name__ == "__main__":
    what, target, *numbers = sys.argv[1:]
    outcome: Any
    if what == "clients":
        outcome = asyncio.run(clients(target, *map(int, numbers)))
    else:
        outcome = health(target)
    print(json.dumps(outcome))
