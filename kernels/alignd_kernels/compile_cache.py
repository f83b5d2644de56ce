"""Where compiled CPU kernels are kept between processes, and how long compiling them took.

Numba's own cache notices a change only in the file of the function that it compiled, not in a helper that was inlined
from another one. Here the folder's name is a hash of the package's sources instead. Other users of Numba in the
process are not affected: nothing of Numba's configuration is touched.
"""

import contextlib
import functools
import hashlib
import logging
import os
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import llvmlite.binding
from numba import njit
from numba.core import config, event
from numba.core.caching import CompileResultCacheImpl, FunctionCache, _CacheLocator

from alignd_kernels.part_compiler import PartCompiler

log = logging.getLogger("alignd")


@functools.cache
def source_hash() -> str:
    """Hash of every Python source of this package that a CPU kernel may be made of: all but the GPU's."""
    digest = hashlib.sha256()
    root = Path(__file__).parent
    for path in sorted(root.rglob("*.py")):
        if path.name.startswith("gpu"):
            continue
        digest.update(str(path.relative_to(root)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def usable(base: Path, folder: Path) -> bool:
    """Whether `folder`, below `base`, can be written, and not by everybody: what is read from it is executed."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
        return _trusted(folder) and all(_trusted(parent) for parent in folder.parents if parent.is_relative_to(base))
    except OSError:
        return False


def _trusted(folder: Path) -> bool:
    """Whether this user (or root) owns it and strangers cannot change what is in it."""
    if not hasattr(os, "getuid"):  # Windows
        return True
    status = folder.stat()
    return status.st_uid in (os.getuid(), 0) and not status.st_mode & stat.S_IWOTH


@functools.cache
def cache_folder() -> Path:
    """`ALIGND_CACHE_DIR`, else the user's cache folder; a temporary folder where neither can be written."""
    named = os.environ.get("ALIGND_CACHE_DIR")
    users = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    shared = Path(tempfile.gettempdir()) / f"alignd-{os.getuid() if hasattr(os, 'getuid') else 'user'}"
    for base in (Path(named) if named else Path(users, "alignd"), shared):
        folder = base / "numba" / source_hash()
        if usable(base, folder):
            return folder
        log.warning("%s cannot hold compiled kernels: it must be a folder that this user alone can write to", base)
    return Path(tempfile.mkdtemp(prefix="alignd-"))


def _complete() -> Path:
    cpu = config.CPU_NAME or llvmlite.binding.get_host_cpu_name()
    return cache_folder() / f"complete-{cpu}-{sys.implementation.cache_tag}"


def is_complete() -> bool:
    """Whether `mark_complete` has been called for these sources, processor and Python: nothing is left to compile."""
    return _complete().exists()


def mark_complete() -> None:
    """Every kernel in use has been compiled, for later processes too."""
    with contextlib.suppress(OSError):
        _complete().touch()


@contextlib.contextmanager
def compiling_alone() -> Iterator[None]:
    """One process at a time: of many that start together, the others wait and then load what the first has compiled."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # a full disk, a file system without locks
            stack.enter_context(_locked(cache_folder(), "compiling"))
        yield


def lasts() -> bool:
    """Whether other processes find the same folder."""
    return cache_folder().name == source_hash()


@contextlib.contextmanager
def _locked(folder: Path, name: str = "lock") -> Iterator[None]:
    """One at a time. Of writers, since Numba numbers its files by what the index holds, and two processes that read the
    same index would give one name to different machine code."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with open(folder / name, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class _Locator(_CacheLocator):  # type: ignore[misc]
    def __init__(self, function: Callable[..., Any], path: str) -> None:
        self._name = f"{Path(path).parent.name}.{function.__code__.co_firstlineno}"

    def get_cache_path(self) -> str:
        return str(cache_folder())

    def get_source_stamp(self) -> str:
        return source_hash()

    def get_disambiguator(self) -> str:
        return self._name

    @classmethod
    def from_function(cls, function: Callable[..., Any], path: str) -> "_Locator":
        return cls(function, path)


class _Impl(CompileResultCacheImpl):  # type: ignore[misc]
    _locator_classes = [_Locator]  # noqa: RUF012


class _Cache(FunctionCache):  # type: ignore[misc]
    _impl_class = _Impl

    def load_overload(self, signature: Any, target: Any) -> Any:
        started = time.perf_counter()
        found = super().load_overload(signature, target)
        if found is not None:
            _clock.report("loaded", _named(self._py_func, found.signature.args), time.perf_counter() - started)
        return found

    def save_overload(self, signature: Any, data: Any) -> None:
        # A full or vanished disk costs the next process a compilation, not this one its answer.
        with contextlib.suppress(OSError), _locked(cache_folder()):
            super().save_overload(signature, data)


class _CompileClock(event.Listener):  # type: ignore[misc]
    """Adds up the time in which our kernels are compiled; loading from the cache is no compilation."""

    def __init__(self) -> None:
        self.kernels: set[int] = set()
        self.seconds = 0.0
        self.report: Callable[[str, str, float], None] = lambda how, kernel, seconds: None
        self._started: dict[int, float] = {}

    def on_start(self, event: Any) -> None:
        kernel = id(event.data["dispatcher"])
        if kernel in self.kernels:
            self._started[kernel] = time.perf_counter()

    def on_end(self, event: Any) -> None:
        dispatcher = event.data["dispatcher"]
        started = self._started.pop(id(dispatcher), None)
        if started is not None:
            seconds = time.perf_counter() - started
            self.seconds += seconds
            self.report("compiled", _named(dispatcher.py_func, event.data["args"]), seconds)


def _named(function: Callable[..., Any], types: Iterable[Any]) -> str:
    return f"{function.__module__}.{function.__qualname__}({', '.join(map(str, types))})"


_clock = _CompileClock()
event.register("numba:compile", _clock)


def compile_seconds() -> float:
    """Seconds that this process has spent compiling CPU kernels."""
    return _clock.seconds


def report_to(report: Callable[[str, str, float], None]) -> None:
    """From now on call `report` for each CPU kernel that is not at hand, with "compiled" or "loaded", the kernel's name
    and types, and the seconds."""
    _clock.report = report


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile `function` by Numba at its first call per argument types, releasing the GIL, cached as described above.

    `fastmath` stays off: sums are in the order written, nothing is contracted, and NaN and infinities are honoured.
    Kernels own no memory (`_nrt`): counting references to the arrays that they are given would cost more, within loops,
    than what the loops do.
    """
    dispatcher = njit(nogil=True, boundscheck=False, error_model="numpy", _nrt=False)(function)
    dispatcher._cache = _Cache(function)
    _clock.kernels.add(id(dispatcher))
    return dispatcher  # type: ignore[no-any-return]


def part(function: Callable[..., Any] | None = None, *, inline: bool = False) -> Any:
    """A function that kernels call, compiled with them; `inline` puts its body in place of each call.

    It owns no memory either, and must be called by nothing that does. Nor does it use objects of Python, as `print` and
    object mode do: where a kernel would look a part's up there is nothing, and it would hang.
    """
    if function is None:
        return functools.partial(part, inline=inline)
    return njit(
        nogil=True, boundscheck=False, error_model="numpy", inline="always" if inline else "never",
        _nrt=False, no_cpython_wrapper=True, no_cfunc_wrapper=True, pipeline_class=PartCompiler,
    )(function)  # fmt: skip
