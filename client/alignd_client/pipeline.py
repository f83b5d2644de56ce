"""Many items through one transport, in order, a bounded number of requests at once: for threads."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from functools import partial
from typing import Any, Generic

from alignd.wire import GET_SERVER_INFO, ServerInfo, ServerInfoRequest
from alignd_client.errors import AlignError, ClientClosedError
from alignd_client.family import Answers, Family, ItemT, ResultT
from alignd_client.options import ClientOptions
from alignd_client.packing import Packer, PackingLimits, Parcel, cut
from alignd_client.per_process import PerProcess
from alignd_client.retry import Attempts
from alignd_client.transport import Call, Transport, run


class Pipeline:
    """What `AlignClient` does to reach its transport."""

    def __init__(self, transport: Transport, options: ClientOptions) -> None:
        self._transport = transport
        self._options = options
        self._limits: PackingLimits | None = options.limits(transport.remote)
        self._closed = False
        self._threads = PerProcess(self._start_threads)

    def server_info(self) -> ServerInfo:
        self._check_open()
        call = self._transport.open(GET_SERVER_INFO, ServerInfoRequest())
        try:
            return run(self._transport, call, Attempts(self._options.retry, self._options.timeout))
        except CancelledError:
            self._check_open()  # closing cancels
            raise

    def health(self) -> str:
        self._check_open()
        return self._transport.health(self._options.health_timeout)

    def close(self) -> None:
        self._closed = True
        threads = self._threads.take()
        if threads is not None:
            threads.shutdown(wait=False, cancel_futures=True)
        self._transport.close()

    def stream(self, family: Family[ItemT, Any, Any, ResultT], raws: Iterable[Any]) -> Iterator[Answers[ResultT]]:
        """What becomes of the items, in order. An error of the iterable's own comes after what it gave before."""
        self._check_open()
        feed = _Feed(self, family, raws)
        window: deque[_Pending[ItemT, ResultT]] = deque()
        try:
            while feed.more or window:
                # An answer that is there goes out before more is read: the iterable may be slow.
                while feed.more and len(window) < self._options.max_in_flight and not (window and window[0].done()):
                    for parcel in feed.read():
                        window.append(self._send(parcel, alone=not feed.more and not window))
                if window:
                    answers = self._wait(window[0])
                    window.popleft()
                    yield answers
            if feed.failure is not None:
                raise feed.failure
        finally:
            for pending in window:
                pending.cancel()

    def limits(self) -> PackingLimits:
        """Asks the server, the first time."""
        if self._limits is None:
            self._limits = PackingLimits.of(self.server_info().limits)
        return self._limits

    def _send(self, parcel: Parcel[ItemT, Any, Any, ResultT], *, alone: bool) -> "_Pending[ItemT, ResultT]":
        if parcel.settled is not None:
            return _Pending(parcel)
        self._check_open()
        call = self._transport.open(parcel.rpc, parcel.request())
        attempts = Attempts(self._options.retry, self._options.timeout)
        work = partial(self._work, parcel, call, attempts)
        if call.begin(attempts.remaining, waits=alone):
            return _Pending(parcel, call, work)
        try:
            return _Pending(parcel, call, future=self._threads.get().submit(work))
        except RuntimeError:  # shut down meanwhile
            self._check_open()
            raise

    def _work(self, parcel: Parcel[ItemT, Any, Any, ResultT], call: Call[Any], attempts: Attempts) -> Any:
        reply = run(self._transport, call, attempts)
        if self._transport.remote:
            parcel.check(reply)
        return reply

    def _start_threads(self) -> ThreadPoolExecutor:
        self._check_open()  # meanwhile, another thread may have closed what it would now leave behind
        return ThreadPoolExecutor(self._options.max_in_flight, thread_name_prefix="alignd-client")

    def _wait(self, pending: "_Pending[ItemT, ResultT]") -> Answers[ResultT]:
        try:
            return pending.answers()
        except (AlignError, CancelledError):
            self._check_open()  # closing is then the cause, whatever gRPC made of it
            raise

    def _check_open(self) -> None:
        if self._closed:
            raise ClientClosedError


class _Feed(Generic[ItemT, ResultT]):
    """The caller's iterable as parcels."""

    def __init__(self, pipeline: Pipeline, family: Family[ItemT, Any, Any, ResultT], raws: Iterable[Any]) -> None:
        self._pipeline = pipeline
        self._family = family
        self._borrow = family.borrows(raws)
        self._raws = raws
        self._source: Iterator[Any] | None = None
        self._parcels: deque[Parcel[ItemT, Any, Any, ResultT]] = deque()
        self._packer: Packer[ItemT, Any, Any, ResultT] | None = None
        self.more = True
        self.failure: Exception | None = None

    def _opened(self) -> Packer[ItemT, Any, Any, ResultT]:
        """Not before there is an item: to align nothing, no server is needed."""
        if self._packer is None:
            self._packer = Packer(self._family, self._pipeline.limits(), borrow=self._borrow)
        return self._packer

    def _begin(self) -> Iterator[Any]:
        """The caller's one array as parcels, if it can be taken so; else one item after the other."""
        stack = self._family.stack(self._raws)
        parcels = cut(self._family, stack, self._pipeline.limits()) if stack else None
        self._parcels.extend(parcels or ())
        return self._items(() if parcels else self._raws)

    def _items(self, raws: Iterable[Any]) -> Iterator[Any]:
        yield from raws  # which ends a generator of the caller's when this is left

    def read(self) -> Sequence[Parcel[ItemT, Any, Any, ResultT]]:
        """Reads one item; returns the parcels that it completes. At the end `more` is false and `failure` says why."""
        try:
            if self._source is None:
                self._source = self._begin()
            if self._parcels:
                parcel = self._parcels.popleft()
                self.more = bool(self._parcels)
                return (parcel,)
            raw = next(self._source)
            return self._opened().push(raw)
        except StopIteration:
            self.more = False
        except Exception as error:
            self.more, self.failure = False, error
        return self._packer.flush() if self._packer else ()


class _Pending(Generic[ItemT, ResultT]):
    """A parcel on its way, or one that was settled without being sent. What needs no thread is gone on with, or begun,
    by whoever waits for it (`work`); else a thread does all (`future`)."""

    def __init__(
        self,
        parcel: Parcel[ItemT, Any, Any, ResultT],
        call: Call[Any] | None = None,
        work: Callable[[], Any] | None = None,
        future: "Future[Any] | None" = None,
    ) -> None:
        self._parcel = parcel
        self._call = call
        self._work = work
        self._future = future

    def done(self) -> bool:
        if self._future is not None:
            return self._future.done()
        return self._call is None or self._call.done()

    def answers(self) -> Answers[ResultT]:
        if self._parcel.settled is not None:
            return self._parcel.settled
        if self._future is not None:
            return self._parcel.answers(self._future.result())
        assert self._work is not None
        return self._parcel.answers(self._work())

    def cancel(self) -> None:
        if self._future is not None:
            self._future.cancel()
        if self._call is not None:
            self._call.cancel()
