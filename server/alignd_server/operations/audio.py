"""AlignAudio: an acoustic stage on a pool of its own, then CTC's queue, then words and tokens with their times."""

import importlib.util
import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

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
from alignd_server.device import usable_cpus
from alignd_server.errors import DeadlineExceededError
from alignd_server.jobs import Job, finish

if TYPE_CHECKING:
    from alignd_server.audio import AudioAligner, Prepared
    from alignd_server.engine import Engine

PACKAGES: Final = ("hama", "num2words", "soundfile", "soxr")


def audio_missing() -> str:
    """The first package of `alignd-server[audio]` that is not installed, or nothing."""
    return next((name for name in PACKAGES if importlib.util.find_spec(name) is None), "")


class AudioPipeline:
    """See `alignd_server.engine.Pipeline`. What is wrong with a recording or its text is the item's status."""

    name = "audio"
    rpc = ALIGN_AUDIO

    def __init__(self, engine: "Engine", aligner: "AudioAligner", threads: int | None = None) -> None:
        self._engine = engine
        self._aligner = aligner
        self._pool = ThreadPoolExecutor(threads or usable_cpus(), thread_name_prefix="alignd-audio")
        self._changed = threading.Condition()
        self._active = 0

    def payload_bytes(self, request: AudioRequest) -> int:
        return len(request.audio) + len(request.transcript)

    def models(self) -> Sequence[Model]:
        return self._aligner.models()

    def start(self, job: Job) -> None:
        request: AudioRequest = job.request
        known = [model.name for model in self.models()]
        if request.model and request.model not in known:
            message = f"there is no model {request.model!r}; there are {', '.join(known)}"
            raise MalformedRequestError(("model", message))
        with self._changed:
            self._active += 1
        self._pool.submit(self._guarded, job, self._listen, job)

    def close(self, timeout: float | None) -> None:
        """Wait until the recordings in work are answered."""
        with self._changed:
            self._changed.wait_for(lambda: self._active == 0, timeout)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _guarded(self, job: Job, stage: Callable[..., None], *arguments: Any) -> None:
        from alignd_server.audio import AudioError

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
        prepared = self._aligner.prepare(request.audio, request.transcript, request.model)
        metrics.acoustic_duration.labels(prepared.model.name).observe(time.perf_counter() - begin)
        T, V = prepared.log_probs.shape
        ctc = CtcRequest(
            prepared.log_probs.reshape(-1),
            DataType.FLOAT32,
            np.array([T], np.int64),
            V,
            prepared.targets,
            np.array([len(prepared.targets)], np.int64),
            prepared.blank,
        )
        job.reservation.resize(job.reservation.nbytes + ctc.log_probs.nbytes)

        def aligned(stages: Sequence[Job]) -> None:
            self._pool.submit(self._guarded, job, self._locate, job, prepared, stages[0])

        self._engine.go_on(job, FORCED_ALIGN.name, ctc, aligned)

    def _locate(self, job: Job, prepared: "Prepared", stage: Job) -> None:
        """Last stage: times."""
        if stage.error is not None:
            raise stage.error
        reply: CtcReply = stage.reply
        status = reply.statuses[0]
        if not status.ok:
            field = "transcript" if status.code is ItemCode.TOO_FEW_FRAMES else "audio"
            self._fail(job, ItemStatus(status.code, field, status.message))
            return
        words, tokens = self._aligner.locate(prepared, reply.paths, reply.frame_scores)
        self._answer(
            job,
            AudioReply(OK, words, tokens, float(reply.scores[0]), prepared.seconds, prepared.model.name),
            reply.timing.kernel_ns,
        )

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
