"""AlignAudio: an acoustic stage on a pool of its own, then CTC's queue, then words and tokens with their times."""

import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

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
from alignd_server.audio import AcousticModel, AudioError, Utterance, listen, timed
from alignd_server.device import usable_cpus
from alignd_server.errors import DeadlineExceededError
from alignd_server.jobs import Job, finish

if TYPE_CHECKING:
    from alignd_server.engine import Engine


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
        self._pool = ThreadPoolExecutor(threads or usable_cpus(), thread_name_prefix="alignd-audio")
        self._changed = threading.Condition()
        self._active = 0

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
        with self._changed:
            self._active += 1
        self._pool.submit(self._guarded, job, self._listen, job)

    def close(self, timeout: float | None) -> None:
        """Wait until the recordings in work are answered."""
        with self._changed:
            self._changed.wait_for(lambda: self._active == 0, timeout)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _guarded(self, job: Job, stage: Callable[..., None], *arguments: Any) -> None:
        try:
            stage(*arguments)
        except AudioError as error:
            self._fail(job, ItemStatus(ItemCode(int(error.status)), error.field, str(error)))
        except MemoryError as error:
            self._fail(job, ItemStatus(ItemCode.OUT_OF_MEMORY, "audio", f"the recording does not fit: {error}"))
        except Exception as error:
            job.error = error
            self._end(job)

    def _listen(self, job: Job) -> None:
        """First stage: samples, emissions and targets."""
        metrics = self._engine.metrics
        metrics.queue_depth.labels(self.name).dec()
        if job.cancelled or job.expired(time.monotonic()):
            metrics.rejected.labels(self.name, "cancelled" if job.cancelled else "deadline").inc()
            raise DeadlineExceededError("the deadline passed while the request waited; it was not run")
        job.started_ns = time.monotonic_ns()
        metrics.queue_duration.labels(self.name).observe((job.started_ns - job.admitted_ns) * 1e-9)
        request: AudioRequest = job.request
        begin = time.perf_counter()
        model = self._models.get(request.model, self._default)
        utterance = listen(model, request.audio, request.transcript)
        metrics.acoustic_duration.labels(utterance.description.name).observe(time.perf_counter() - begin)
        T, V = utterance.log_probs.shape
        targets = utterance.transcript.targets
        ctc = CtcRequest(
            utterance.log_probs.reshape(-1),
            DataType.FLOAT32,
            np.array([T], np.int64),
            V,
            targets,
            np.array([len(targets)], np.int64),
            utterance.description.blank,
        )
        job.reservation.resize(job.reservation.nbytes + ctc.log_probs.nbytes)

        def aligned(stages: Sequence[Job]) -> None:
            self._pool.submit(self._guarded, job, self._locate, job, utterance, stages[0])

        self._engine.go_on(job, FORCED_ALIGN.name, ctc, aligned)

    def _locate(self, job: Job, utterance: Utterance, stage: Job) -> None:
        """Last stage: times."""
        if stage.error is not None:
            raise stage.error
        reply: CtcReply = stage.reply
        status = reply.statuses[0]
        if not status.ok:
            field = "transcript" if status.code is ItemCode.TOO_FEW_FRAMES else "audio"
            self._fail(job, ItemStatus(status.code, field, status.message))
            return
        words, tokens = timed(utterance, reply.paths, reply.frame_scores)
        name = utterance.description.name
        answer = AudioReply(OK, words, tokens, float(reply.scores[0]), utterance.audio_seconds, name)
        self._answer(job, answer, reply.timing.kernel_ns)

    def _fail(self, job: Job, status: ItemStatus) -> None:
        self._answer(job, AudioReply(status, (), (), math.nan, 0.0, job.request.model), 0)

    def _answer(self, job: Job, reply: AudioReply, kernel_ns: int) -> None:
        job.reply = job.timed(reply, kernel_ns)
        self._engine.metrics.items.labels(self.name, reply.status.code.name.lower()).inc()
        self._end(job)

    def _end(self, job: Job) -> None:
        finish([job])
        with self._changed:
            self._active -= 1
            self._changed.notify_all()
