"""What the engine and the service cost over the bare kernels: `python tests/benchmarks/bench_service.py`.

Every round asks all doors the same, in turn; the figures are medians over the rounds, so that what else the machine
does falls on all of them.
"""

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).parents[1]))

from alignd_client import AlignClient
from alignd_kernels import ctc, mas
from alignd_kernels.ctc.batch import CtcBatch
from alignd_kernels.dtypes import DType
from alignd_kernels.mas.batch import MasBatch
from alignd_kernels.ragged import offsets_of
from alignd_kernels.threads import default_pool
from support.server_process import ServerProcess

ROUNDS = 9

FloatArray = npt.NDArray[np.float32]
Doors = dict[str, Callable[[], object]]


def mas_doors(items: int, tokens: int, frames: int, server: AlignClient, local: AlignClient) -> Doors:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((items, tokens, frames), dtype=np.float32)
    lengths = np.full(items, frames, np.int64)
    offsets = offsets_of(lengths * tokens)[:-1]
    batch = MasBatch(x.reshape(-1), DType.FLOAT32, offsets, np.full(items, tokens, np.int64), lengths, lengths)
    return {
        "kernel": lambda: mas.align(batch, pool=default_pool()),
        "in process": lambda: list(local.align_mas(x)),
        "server": lambda: list(server.align_mas(x)),
    }


def ctc_doors(items: int, labels: int, frames: int, V: int, server: AlignClient, local: AlignClient) -> Doors:
    rng = np.random.default_rng(0)
    x = np.log(rng.dirichlet(np.ones(V), (items, frames))).astype(np.float32)
    y = rng.integers(1, V, (items, labels)).astype(np.int32)
    T, L, vocabulary = (np.full(items, size, np.int64) for size in (frames, labels, V))
    offsets, targets = offsets_of(T * V)[:-1], offsets_of(L)[:-1]
    blanks, stars = np.zeros(items, np.int32), np.zeros(items, np.float32)
    batch = CtcBatch(
        x.reshape(-1), DType.FLOAT32, offsets, T, vocabulary, vocabulary, y.reshape(-1), targets, L, blanks, stars
    )
    return {
        "kernel": lambda: ctc.align(batch, pool=default_pool()),
        "in process": lambda: list(local.align_ctc(x, y)),
        "server": lambda: list(server.align_ctc(x, y)),
    }


def cases(server: AlignClient, local: AlignClient) -> Iterator[tuple[str, int, Doors]]:
    yield "MAS, 32 × T=800, S=160", 32, mas_doors(32, 160, 800, server, local)
    yield "MAS, 2000 × T=100, S=20", 2000, mas_doors(2000, 20, 100, server, local)
    yield "CTC, 64 × T=1500, V=32, L=300", 64, ctc_doors(64, 300, 1500, 32, server, local)
    yield "CTC, 2000 × T=100, V=32, L=20", 2000, ctc_doors(2000, 20, 100, 32, server, local)


def measure(doors: Doors) -> dict[str, float]:
    """Median seconds of each door over interleaved rounds."""
    seconds: dict[str, list[float]] = {name: [] for name in doors}
    for _ in range(ROUNDS + 1):
        for name, run in doors.items():
            begin = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(times[1:]) for name, times in seconds.items()}  # the first round warms up


def main() -> None:
    with ServerProcess("--audio", "off") as process, AlignClient(process.target) as server:
        local = AlignClient.in_process("cpu")
        print(f"{'utterances per second':34}{'kernel':>12}{'in process':>22}{'server':>22}")
        for name, items, doors in cases(server, local):
            seconds = measure(doors)
            rates = {door: items / time for door, time in seconds.items()}
            kernel = rates.pop("kernel")
            others = "".join(f"{rate:>13,.0f} ({rate / kernel:>5.0%})" for rate in rates.values())
            print(f"{name:34}{kernel:>12,.0f}{others}")
        local.close()


if __name__ == "__main__":
    main()
