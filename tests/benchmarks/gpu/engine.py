"""The stage that says where a batch's time goes, from request to reply.

The parts are called by themselves, so that the path of a request holds no code for this.

`python -m benchmarks.gpu.engine OUT [--rehearse]` writes OUT/engine.json.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from benchmarks import peers
from benchmarks.gpu.place import Place, place_of
from benchmarks.gpu.stages import SKIPPED
from benchmarks.gpu.summary import engine_table
from benchmarks.measure import interleave

ROUNDS = 15
AT_ONCE = 8
"""Batches that are submitted together."""

NEEDED = "google.protobuf", "google.rpc", "grpc", "prometheus_client", "psutil", "structlog"
"""What the engine and the client import besides ours, NumPy, torch and Triton; to name all that is missing at once."""


def missing_packages() -> str:
    """What the engine needs and this Python lacks, as a sentence; empty if nothing."""
    try:
        importlib.import_module("alignd_server.engine")
        importlib.import_module("alignd_server.operations")
        importlib.import_module("alignd_client")
    except ModuleNotFoundError as error:
        names = sorted({str(error.name), *(name for name in NEEDED if not installed(name))})
        return f"the engine lacks {', '.join(names)} here: --wheels DIR brings packages"
    return ""


def installed(name: str) -> bool:
    """Whether a module can be found, without importing it."""
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # the package around it
        return False


@dataclasses.dataclass(frozen=True)
class Question:
    """One batch, in the forms in which each layer takes it.

    Attributes:
        name: for people.
        items: how many.
        values: the flat array that goes to the device.
        align: from a device to the kernels' result.
        rpc: the operation's name.
        request: for the engine.
        ask: from a client to its results.
    """

    name: str
    items: int
    values: Any
    align: Callable[[str], Any]
    rpc: str
    request: Any
    ask: Callable[[Any], Iterable[Any]]


def mas_question(name: str, frames: Any) -> Question:
    """S = T/6 tokens, float32."""
    from alignd.wire import DataType, MasRequest
    from alignd_kernels.mas import gpu
    from benchmarks.cases_mas import MasInputs, MasShape
    from benchmarks.gpu.real_shapes import ragged_mas

    inputs = MasInputs(MasShape(frames // 6, frames), 0)
    batch = ragged_mas(inputs, np.arange(len(frames)))
    ends = np.cumsum(batch.tokens * batch.frames)[:-1]
    shapes = zip(batch.tokens.tolist(), batch.frames.tolist())
    values: Any = batch.values
    items = [item.reshape(shape) for item, shape in zip(np.split(values, ends), shapes)]
    request = MasRequest(values, DataType.FLOAT32, batch.tokens, batch.frames)
    return Question(
        name,
        len(frames),
        values,
        lambda device: gpu.align(batch, device),
        "MaximumPath",
        request,
        lambda client: client.align_mas(items),
    )


def ctc_question(name: str, frames: Any, columns: int) -> Question:
    """L = T/8 labels, float32."""
    from alignd.wire import CtcRequest, DataType
    from alignd_kernels.ctc import gpu
    from benchmarks.gpu.real_shapes import RaggedCtcInputs

    inputs = RaggedCtcInputs(frames, columns, 0)
    batch = inputs.ragged(np.arange(len(frames)))
    log_probs, targets = zip(*(inputs.item(b) for b in range(len(frames))))
    values: Any = batch.log_probs
    request = CtcRequest(values, DataType.FLOAT32, frames, columns, batch.targets, batch.target_lengths)
    return Question(
        name,
        len(frames),
        values,
        lambda device: gpu.align(batch, device),
        "ForcedAlign",
        request,
        lambda client: client.align_ctc(list(log_probs), list(targets)),
    )


def questions(place: Place) -> list[Question]:
    """A full batch and a lone short item of each family."""
    from benchmarks.gpu.real_shapes import frames_of

    many, one, columns = frames_of(place), np.array([200]), 6 if place.tiny else 32
    full = [
        mas_question(f"MAS, {len(many)} items of many lengths", many),
        ctc_question(f"CTC, {len(many)} items of many lengths", many, columns),
    ]
    if place.tiny:
        return full
    return [*full, mas_question("MAS, one short item", one), ctc_question("CTC, one short item", one, columns)]


def clocks(place: Place, question: Question, engine: Any, client: Any) -> dict[str, Callable[[Any], float]]:
    """Seconds of each part by itself, the device idle before. What begins with one part begins with those before it."""
    import torch

    from alignd_kernels.gpu_copies import to_device, to_host

    device = torch.device(place.device)
    result = question.align(place.device)
    answers = [torch.from_numpy(array).to(device) for array in arrays_of(result)]

    def staged(wait: bool) -> float:
        begun = time.perf_counter()
        copied = to_device(device, question.values)
        if wait:
            place.synchronize()
        taken = time.perf_counter() - begun
        place.synchronize()
        del copied
        return taken

    def whole(call: Callable[[], object]) -> float:
        begun = time.perf_counter()
        call()
        return time.perf_counter() - begun

    return {
        "staging": lambda _: staged(False),
        "arrived": lambda _: staged(True),
        "kernels": lambda _: float(question.align(place.device).kernel_ns) * 1e-9,
        "copy out": lambda _: whole(lambda: to_host(answers)),
        "align": lambda _: whole(lambda: question.align(place.device)),
        "engine": lambda _: whole(lambda: engine.submit(question.rpc, question.request).result()),
        "client": lambda _: whole(lambda: list(question.ask(client))),
    }


def arrays_of(result: Any) -> list[Any]:
    """What is copied back."""
    fields = (getattr(result, field.name) for field in dataclasses.fields(result))
    return [array for array in fields if isinstance(array, np.ndarray)]


def parts_of(seconds: dict[str, float]) -> dict[str, float]:
    """Where the time of a call goes, one part after another. Copies of a batch that run while the one before is in the
    kernels cost less than they do here."""
    parts = {
        "staging": seconds["staging"],
        "copy in": seconds["arrived"] - seconds["staging"],
        "kernels": seconds["kernels"],
        "copy out": seconds["copy out"],
    }
    parts["rest of align"] = seconds["align"] - sum(parts.values())
    parts["engine on top"] = seconds["engine"] - seconds["align"]
    parts["client on top"] = seconds["client"] - seconds["engine"]
    return parts


def activity(place: Place, question: Question) -> dict[str, float]:
    """Seconds that the device spends on one `align`, by kind, and how many activities of each, as the profiler sees
    them. In a rehearsal it is what the CPU does for torch."""
    from torch.profiler import profile, supported_activities

    with profile(activities=supported_activities()) as seen:
        question.align(place.device)
        place.synchronize()
    found: dict[str, float] = {}
    for event in seen.events():
        if str(event.device_type).rsplit(".", maxsplit=1)[-1] == place.profiled:
            kind = kind_of(event.name)
            found[f"{kind}, s"] = found.get(f"{kind}, s", 0.0) + event.time_range.elapsed_us() * 1e-6
            found[f"{kind}, count"] = found.get(f"{kind}, count", 0) + 1
    return found


def kind_of(name: str) -> str:
    """Of an activity, by its name in a profile."""
    for kind, text in (("copy in", "HtoD"), ("copy out", "DtoH"), ("copy on the device", "DtoD"), ("fill", "Memset")):
        if text in name:
            return kind
    return "kernels"


def at_once(place: Place, question: Question, engine: Any) -> dict[str, float]:
    """Seconds of a batch alone, and of each of several that are submitted together, none merged with another: what they
    take less comes from copies of one that go on beside the kernels of the other."""
    from alignd_server.engine import Engine, EngineLimits
    from alignd_server.operations import alignments

    operation = next(operation for operation in alignments() if operation.rpc.name == question.rpc)
    cells = operation.cost(question.request, engine.devices[0]).cells
    count = 2 if place.tiny else AT_ONCE

    def ask(several: int) -> float:
        begun = time.perf_counter()
        for future in [apart.submit(question.rpc, question.request) for _ in range(several)]:
            future.result()
        return (time.perf_counter() - begun) / several

    # On the same devices, whose kernels are compiled or loaded; two requests are more than its batches hold.
    apart = Engine(engine.devices, [operation], EngineLimits(max_batch_cells=cells))
    try:
        if not place.tiny:
            ask(count)
        timed = {"alone": lambda _: ask(1), "each": lambda _: ask(count)}
        seconds = interleave(timed, [None], dict.fromkeys(timed, 1 if place.tiny else ROUNDS))
    finally:
        apart.close(10)
    return {"batches": count} | {name: statistics.median(taken) for name, taken in seconds.items()}


def measure(place: Place, question: Question, engine: Any, client: Any) -> dict[str, Any]:
    """The record of one batch."""
    timed = clocks(place, question, engine, client)
    for call in timed.values() if not place.tiny else ():
        call(None)
    seconds = interleave(timed, [None], dict.fromkeys(timed, 1 if place.tiny else ROUNDS))
    medians = {name: statistics.median(taken) for name, taken in seconds.items()}
    return {
        "name": question.name,
        "items": question.items,
        "bytes": int(question.values.nbytes),
        "medians": medians,
        "parts": parts_of(medians),
        "items_per_s": question.items / medians["client"],
        "at_once": at_once(place, question, engine),
        "activity": activity(place, question),
    }


def started(place: Place, asked: Sequence[Question]) -> tuple[Any, Any]:
    """A client in this process, and its engine: another one would be as long in starting. In a rehearsal with no more
    operations than are asked for: the interpreter takes its time for the others."""
    from alignd_client import AlignClient
    from alignd_server import engine, operations

    create, every = engine.create_engine, operations.alignments()
    wanted = {question.rpc for question in asked}
    chosen = [one for one in every if one.rpc.name in wanted] if place.tiny else every
    made: list[Any] = []

    def noted(**options: Any) -> Any:
        made.append(create(**options, audio=False))
        return made[-1]

    with (
        mock.patch.object(engine, "create_engine", noted),
        mock.patch.object(operations, "alignments", return_value=chosen),
    ):
        client = AlignClient.in_process(place.engine)
    return client, made[0]


def main(arguments: Sequence[str]) -> int:
    missing = missing_packages()
    if missing:
        print(missing)
        return SKIPPED
    import alignd_kernels as ak

    place = place_of("--rehearse" in arguments)
    peers.torch_module()
    asked = questions(place)
    begun = time.perf_counter()
    client, engine = started(place, asked)
    start = time.perf_counter() - begun
    with client:
        records = [measure(place, question, engine, client) for question in asked]
    results = {"start_s": start, "compile_s": ak.compile_seconds(), "batches": records}
    (Path(arguments[0]) / "engine.json").write_text(json.dumps(results, indent=1) + "\n")
    for record in records:
        shares = ", ".join(f"{name} {value:.3g}" for name, value in sorted(record["activity"].items()))
        print(f"{record['name']}, one align as the profiler sees it: {shares}")
    print("\n".join(engine_table(results)))
    print(f"{len(records)} batches")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
