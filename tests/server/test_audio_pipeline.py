"""AlignAudio's way through the engine, with a model that does what the test says."""

import io
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from typing import Any

import numpy as np
import pytest
import soundfile

from alignd.wire import AudioReply, AudioRequest, ItemCode
from alignd_server.audio import ModelDescription, Transcript, TranscriptWord
from alignd_server.engine import Engine, create_engine
from alignd_server.errors import UnavailableError
from alignd_server.operations.audio import AudioPipeline

DESCRIPTION = ModelDescription("fake", "en", 16_000, 0.02, "none", 0.0, 0.0, 30.0, ("-", "a", "b"), 0)


class FakeModel:
    """Hears "a" in every frame, once its gate is open."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.listening = threading.Semaphore(0)
        self.error: Exception | None = None

    def describe(self) -> ModelDescription:
        return DESCRIPTION

    def prepare(self, transcript: str) -> Transcript:
        return Transcript((TranscriptWord("a", ("a",), 0, 1),), np.array([1], np.int32), ("a",))

    def emissions(self, samples: Any) -> Any:
        self.listening.release()
        assert self.gate.wait(30)
        if self.error is not None:
            raise self.error
        return np.log(np.tile(np.array([0.1, 0.8, 0.1], np.float32), (len(samples) // 320, 1)))


def recording() -> AudioRequest:
    encoded = io.BytesIO()
    soundfile.write(encoded, np.sin(np.arange(16_000) / 20), 16_000, format="WAV")
    return AudioRequest(encoded.getvalue(), "a")


@pytest.fixture
def model() -> FakeModel:
    return FakeModel()


@pytest.fixture
def engine(model: FakeModel) -> Iterator[Engine]:
    engine = create_engine("cpu", audio=False)
    engine.add_pipeline(AudioPipeline(engine, [model], threads=1))
    yield engine
    model.gate.set()
    engine.close(10)


def busy(engine: Engine, model: FakeModel) -> "Future[AudioReply]":
    future = engine.submit("AlignAudio", recording())
    assert model.listening.acquire(timeout=10)
    return future


def test_words_come_out(engine: Engine, model: FakeModel) -> None:
    model.gate.set()
    reply = engine.submit("AlignAudio", recording()).result(10)
    assert reply.status.ok
    assert [(word.symbol, word.start, word.duration) for word in reply.words] == [("a", 0.0, 1.0)]
    assert (reply.model, reply.audio_seconds) == ("fake", 1.0)
    assert 0 < reply.timing.kernel_ns < reply.timing.total_ns


def test_a_defect_of_the_model_is_the_items(engine: Engine, model: FakeModel) -> None:
    model.error = IndexError("a defect")
    model.gate.set()
    reply = engine.submit("AlignAudio", recording()).result(10)
    assert (reply.status.code, reply.status.message) == (ItemCode.INTERNAL, "IndexError: a defect")
    assert reply.model == "fake"


def test_cancelled_recordings_leave_the_queue(engine: Engine, model: FakeModel) -> None:
    first = busy(engine, model)
    waiting = [engine.submit("AlignAudio", recording()) for _ in range(5)]
    assert engine.admission.items == 6
    assert all(future.cancel() for future in waiting)
    assert engine.admission.items == 1
    assert engine.metrics.registry.get_sample_value("alignd_queue_depth", {"op": "audio"}) == 0
    model.gate.set()
    assert first.result(10).status.ok
    with pytest.raises(CancelledError):
        waiting[0].result(10)
    assert not model.listening.acquire(blocking=False)


def test_what_is_cancelled_while_it_is_heard_is_not_aligned(engine: Engine, model: FakeModel) -> None:
    future = busy(engine, model)
    assert future.cancel()
    model.gate.set()
    engine.submit("AlignAudio", recording()).result(10)
    assert engine.metrics.registry.get_sample_value("alignd_items_total", {"op": "ctc", "status": "ok"}) == 1
    assert engine.admission.items == 0


def test_closing_in_time_refuses_what_waits(engine: Engine, model: FakeModel) -> None:
    busy(engine, model)
    waiting = [engine.submit("AlignAudio", recording()) for _ in range(5)]
    begin = time.monotonic()
    engine.close(0.2)
    assert time.monotonic() - begin < 5
    for future in waiting:
        with pytest.raises(UnavailableError, match="shutting down"):
            future.result(0)


def test_closing_answers_what_was_admitted(engine: Engine, model: FakeModel) -> None:
    first = busy(engine, model)
    waiting = [engine.submit("AlignAudio", recording()) for _ in range(3)]
    closing = threading.Thread(target=engine.close)
    closing.start()
    model.gate.set()
    closing.join(20)
    assert not closing.is_alive()
    assert all(future.result(0).status.ok for future in (first, *waiting))
    assert engine.admission.items == 0
