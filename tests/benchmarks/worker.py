"""One side of `--compare`: a process that holds a case and times a call whenever it is asked to.

It imports the harness of the present tree and the packages of the tree that its PYTHONPATH names. Requests and replies
are lines of JSON on standard input and output.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

import numpy as np

HARNESS = Path(__file__).parents[1]
DISTRIBUTIONS = ("proto", "kernels", "server", "client")


class Refused(Exception):  # noqa: N818 -- an outcome: this tree cannot run the case
    """The other process could not do it; the message says why."""


class Worker:
    """The parent's handle of a process that measures the tree in `folder`."""

    def __init__(self, folder: Path) -> None:
        path = [str(HARNESS), *(str(folder / name) for name in DISTRIBUTIONS)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
        )

    def prepare(self, case: str) -> dict[str, dict[str, Any]]:
        """Of each of our functions, "seconds" of a call and "digest" of its paths.

        Raises:
            Refused: this tree cannot run the case.
        """
        found: dict[str, dict[str, Any]] = self._ask({"prepare": case})
        return found

    def time(self, contestant: str, turn: int) -> float:
        return float(self._ask({"time": contestant, "turn": turn}))

    def _ask(self, request: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise Refused("the process ended")
        reply = json.loads(line)
        if "error" in reply:
            raise Refused(reply["error"])
        return reply["answer"]

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


class Bench:
    """The worker's state: a case, its input sets and our contestants."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._sets: list[Any] = []
        self._timed: dict[str, Any] = {}

    def prepare(self, name: str) -> dict[str, dict[str, Any]]:
        from benchmarks.catalogue import named
        from benchmarks.run import clock, input_sets

        case = named(name)
        self._sets = input_sets(case)
        rows = [row for row in case.contestants(self._stack, self._sets) if row.kind == "ours" and not row.skip]
        found: dict[str, dict[str, Any]] = {}
        for row in rows:
            answer = row.call(self._sets[0])  # compiles, or loads, what it needs
            paths = row.paths(answer, self._sets[0]) if row.paths is not None else []
            self._timed[row.name] = lambda inputs, row=row: clock(row, inputs)
            found[row.name] = {"seconds": clock(row, self._sets[0]), "digest": digest(paths)}
        return found

    def time(self, contestant: str, turn: int) -> float:
        return float(self._timed[contestant](self._sets[turn % len(self._sets)]))


def digest(paths: Sequence[Any]) -> str:
    """Of the paths' values, whatever their integer type."""
    state = hashlib.sha256()
    for path in paths:
        state.update(np.ascontiguousarray(path, np.int64).tobytes())
    return state.hexdigest()


def serve(requests: TextIO, replies: TextIO) -> None:
    """Answer until the requests end."""
    with ExitStack() as stack:
        bench = Bench(stack)
        for line in requests:
            request = json.loads(line)
            try:
                if "prepare" in request:
                    answer: Any = bench.prepare(request["prepare"])
                else:
                    answer = bench.time(request["time"], request["turn"])
                reply = {"answer": answer}
            except Exception as error:
                reply = {"error": f"{type(error).__name__}: {error}"}
            replies.write(json.dumps(reply) + "\n")
            replies.flush()


if __name__ == "__main__":
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not end up among the replies
    serve(sys.stdin, channel)
