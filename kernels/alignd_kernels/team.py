"""Threads that do tasks, safe against an interrupt at any place of the thread that gives them.

`concurrent.futures` is not: an interrupt that comes while Python's own code takes one of its locks leaves that lock
held, and every later call waits for ever. Here is no lock but those within `SimpleQueue`, and what is atomic under the
GIL; which also costs who gives a task 0.5 µs instead of 5.
"""

import threading
from collections.abc import Callable
from queue import SimpleQueue


class Task:
    """A call that one of a team's threads makes, unless it is cancelled before."""

    def __init__(self, function: Callable[[], None]) -> None:
        self._function = [function]  # whoever takes it out decides what becomes of it
        self._outcome: SimpleQueue[BaseException | None] = SimpleQueue()

    def cancel(self) -> bool:
        """Whether it will never be run."""
        return self._taken() is not None

    def exception(self) -> BaseException | None:
        """What it raised, once: waits until it is over. Not for one that was cancelled."""
        return self._outcome.get()

    def run(self) -> None:
        function = self._taken()
        if function is None:
            return
        try:
            function()
        except BaseException as error:
            self._outcome.put(error)
        else:
            self._outcome.put(None)

    def _taken(self) -> Callable[[], None] | None:
        try:
            return self._function.pop()
        except IndexError:
            return None


class Team:
    """`size` threads, which end with this object or at `shutdown`."""

    def __init__(self, size: int, name: str) -> None:
        self._tasks: SimpleQueue[Task | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=_work, args=(self._tasks,), name=f"{name}_{i}", daemon=True) for i in range(size)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, function: Callable[[], None]) -> Task:
        """One thread calls `function` as soon as it is free; never after `shutdown`."""
        task = Task(function)
        self._tasks.put(task)
        return task

    def shutdown(self, *, wait: bool) -> None:
        """Let the threads go once they have done what they were given before."""
        self.__del__()
        if wait:
            for thread in self._threads:
                thread.join()

    def __del__(self) -> None:
        for _ in self._threads:
            self._tasks.put(None)


def _work(tasks: "SimpleQueue[Task | None]") -> None:
    # Nothing of a task outlives it here: its arrays may be large.
    while (task := tasks.get()) is not None:
        task.run()
        del task
