"""AlignAudio: recordings are heard on threads of their own, aligned in CTC's queue, and answered with times."""

import math
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
import structlog

from alignd.wire import (
    ALIGN_AUDIO,
    FORCED_ALIGN,
    OK,
    AudioReply,
    AudioRequest,
    CtcReply,
    CtcRequest,
    DataType,
    ItemCode,
    ItemStatus,
    MalformedRequestError,
    Model,
)
from alignd_kernels.threads import available_cpus
from alignd_server.audio import AcousticModel, AudioError, Utterance, listen, timed
from alignd_server.errors import DeadlineExceededError, EngineError, UnavailableError
from alignd_server.jobs import Job, JobFuture, finish
from alignd_server.queue import BatchLimits, JobQueue

if TYPE_CHECKING:
    from alignd_server.engine import Engine

log = structlog.get_logger("alignd.audio")

ONE_AT_A_TIME: Final = BatchLimits(cells=0, nbytes=0, scratch_bytes=0)


class AudioPipeline:
    """See `alignd_server.engine.Pipeline`. What is wrong with a recording or its text is the item's status.

    Args:
        models: the first one is the default.
        threads: that listen; as many as there are processors by default.
    """

    name = "audio"
    rpc = ALIGN_AUDIO

    def __init__(self, engine: "Engine", models: Sequence[AcousticModel], threads: int | None = None) -> None:
        self._engine = engine
        self._models = {model.describe().name: model for model in models}
        self._default = models[0]
        self._queue = JobQueue(ONE_AT_A_TIME)
        self._threads = [
            threading.Thread(target=self._work, name=f"alignd-audio-{index}", daemon=True)
            for index in range(threads or available_cpus())
        ]
        for thread in self._threads:
            thread.start()

    def payload_bytes(self, request: AudioRequest) -> int:
        return len(request.audio) + len(request.transcript)

    def models(self) -> Sequence[Model]:
        descriptions = [model.describe() for model in self._models.values()]
        return [Model(d.name, d.language, d.sample_rate, d.frame_seconds, d.license) for d in descriptions]

    def start(self, job: Job) -> None:
        name = job.request.model
        if name and name not in self._models:
            known = ", ".join(self._models)
            raise MalformedRequestError(("model", f"there is no model {name!r}; there are {known}"))
        self._queue.put(job)

    def discard(self, job: Job) -> bool:
        return self._queue.discard(job)

    def close(self, timeout: float | None) -> None:
        """Wait until the recordings that have been taken are answered; after the time, refuse those that wait."""
        self._queue.close()
        deadline = None if timeout is None else time.monotonic() + timeout
        for thread in self._threads:
            thread.join(None if deadline is None else max(0.0, deadline - time.monotonic()))
        waiting = self._queue.drain()
        for job in waiting:
            job.error = UnavailableError("the engine is shutting down")
        finish(waiting)

    def _work(self) -> None:
        while jobs := self._queue.take():
            for job in jobs:
                self._engine.metrics.queue_depth.labels(self.name).dec()
                self._handle(job)
                finish([job])

    def _handle(self, job: Job) -> None:
        """Give the job its reply or its error."""
        try:
            self._align(job)
        except AudioError as error:
            self._fail(job, ItemStatus(ItemCode(int(error.status)), error.field, str(error)))
        except MemoryError as error:
            self._fail(job, ItemStatus(ItemCode.OUT_OF_MEMORY, "audio", f"it does not fit: {error}"))
        except EngineError as error:
            job.error = error
        except Exception as error:
            log.exception("a recording failed")
            self._fail(job, ItemStatus(ItemCode.INTERNAL, "", f"{type(error).__name__}: {error}"))
        if job.reply is not None:
            self._engine.metrics.items.labels(self.name, job.reply.status.code.name.lower()).inc()

    def _align(self, job: Job) -> None:
        metrics = self._engine.metrics
        self._check_wanted(job)
        job.started_ns = time.monotonic_ns()
        metrics.queue_duration.labels(self.name).observe((job.started_ns - job.admitted_ns) * 1e-9)
        request: AudioRequest = job.request
        begin = time.perf_counter()
        utterance = listen(self._model(request), request.audio, request.transcript)
        metrics.acoustic_duration.labels(utterance.description.name).observe(time.perf_counter() - begin)
        self._check_wanted(job)
        job.reservation.resize(job.reservation.nbytes + utterance.log_probs.nbytes)
        aligned = JobFuture()
        self._engine.go_on(job, FORCED_ALIGN.name, _emissions(utterance), aligned)
        reply: CtcReply = aligned.result()
        status = reply.statuses[0]
        if not status.ok:
            field = "transcript" if status.code is ItemCode.TOO_FEW_FRAMES else "audio"
            self._fail(job, ItemStatus(status.code, field, status.message))
            return
        words, tokens = timed(utterance, reply.paths, reply.frame_scores)
        name = utterance.description.name
        answer = AudioReply(OK, words, tokens, float(reply.scores[0]), utterance.audio_seconds, name)
        job.answer(answer, reply.timing.kernel_ns)

    def _check_wanted(self, job: Job) -> None:
        if job.cancelled or job.expired(time.monotonic()):
            reason = "cancelled" if job.cancelled else "deadline"
            self._engine.metrics.rejected.labels(self.name, reason).inc()
            raise DeadlineExceededError("the deadline passed before the recording was aligned")

    def _model(self, request: AudioRequest) -> AcousticModel:
        return self._models.get(request.model, self._default)

    def _fail(self, job: Job, status: ItemStatus) -> None:
        name = self._model(job.request).describe().name
        job.answer(AudioReply(status, (), (), math.nan, 0.0, name), 0)


def _emissions(utterance: Utterance) -> CtcRequest:
    T, V = utterance.log_probs.shape
    targets = utterance.transcript.targets
    return CtcRequest(
        utterance.log_probs.reshape(-1),
        DataType.FLOAT32,
        np.array([T], np.int64),
        V,
        targets,
        np.array([len(targets)], np.int64),
        utterance.description.blank,
    )
