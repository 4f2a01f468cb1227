"""Stages of threads with bounded queues between them; knows nothing of images.

A slow stage holds up the ones before it and never fills the memory. Imports the standard library.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from queue import Queue
from typing import Any

__all__ = ["RetiredError", "Stage", "run_stages"]

_END = object()


class RetiredError(Exception):
    """Raised by a stage's call that cannot take another item; the stage's others go on.

    Parameters
    ----------
    value : what this call gives for its last item.
    error : why; it ends the line if no other call of the stage is left.
    """

    def __init__(self, value: Any, error: Exception) -> None:
        super().__init__(str(error))
        self.value, self.error = value, error


@dataclass(frozen=True)
class Stage:
    """One step of a line.

    Attributes
    ----------
    name : what its threads are called.
    calls : one function a thread, from what the stage before gave to what the next one takes. An
        exception ends the line: what is one item's own failure is to be returned as a value. After
        a ``RetiredError`` the call is not used again.
    room : how many finished items may wait for the next stage.
    drops_on_stop : forget items that were not begun when ``stop`` was set.
    """

    name: str
    calls: Sequence[Callable[[Any], Any]]
    room: int
    drops_on_stop: bool = False


def run_stages(
    items: Iterable[Any], stages: Sequence[Stage], stop: threading.Event
) -> Generator[Any]:
    """Send items through the stages, each with its own threads, and yield what leaves the last.

    Results come in the order in which they are finished; with one thread a stage that is the order
    of the items. After ``stop`` is set no more items are taken; those on their way are finished,
    but for the stages that drop them. It is the same when the last call of a stage has retired.
    When the caller stops asking, nothing more is begun.

    Parameters
    ----------
    items : taken one at a time, by the first stage's threads.
    stages : at least one.
    stop : set by whoever wants the line to end early.

    Raises
    ------
    Exception : the first one that a call raised, once every thread has ended.
    """
    line = _Line(stop)
    source: Callable[[], Any] = _Source(items, line).take
    queue: Queue[Any] = Queue()
    threads = []
    for stage in stages:
        queue = Queue(stage.room)
        threads += line.threads(stage, source, queue)
        source = _taking_from(queue)
    for thread in threads:
        thread.start()
    ended = False
    try:
        while not (ended := (item := queue.get()) is _END):
            yield item
    finally:
        line.halt()
        while not ended:  # threads may be waiting for room in the last queue
            ended = queue.get() is _END
        for thread in threads:
            thread.join()
    if line.error is not None:
        raise line.error


class _Line:
    """What the threads of a line share: whether to stop, and what went wrong."""

    def __init__(self, stop: threading.Event) -> None:
        self.error: BaseException | None = None
        self.halted, self._lock = threading.Event(), threading.Lock()
        self._stop, self._is_cut = stop, False

    @property
    def is_stopping(self) -> bool:
        """Whether no more items are to be taken."""
        return self._stop.is_set() or self._is_cut or self.halted.is_set()

    def halt(self, error: BaseException | None = None) -> None:
        """Begin nothing more; the first error is kept."""
        with self._lock:
            self.error = self.error or error
        self.halted.set()

    def cut(self, error: BaseException) -> None:
        """Take no more items, and finish what is behind the stage that ended with this error."""
        with self._lock:
            self.error = self.error or error
            self._is_cut = True

    def threads(
        self, stage: Stage, source: Callable[[], Any], target: Queue[Any]
    ) -> list[threading.Thread]:
        """The threads of a stage, not yet started; the last to leave puts the end."""
        running, in_use = [len(stage.calls)], [len(stage.calls)]

        def is_last_of(counter: list[int]) -> bool:
            with self._lock:
                counter[0] -= 1
                return counter[0] == 0

        def drain() -> None:  # so that the stage before does not wait for ever
            while source() is not _END:
                pass

        def work(call: Callable[[Any], Any]) -> None:
            try:
                while (item := source()) is not _END:
                    if not (self.halted.is_set() or (stage.drops_on_stop and self.is_stopping)):
                        target.put(call(item))
            except RetiredError as retired:
                target.put(retired.value)
                if is_last_of(in_use):
                    self.cut(retired.error)
                    drain()
            except BaseException as error:  # what it is, the caller of run_stages will see
                self.halt(error)
                drain()
            if is_last_of(running):
                target.put(_END)

        return [
            threading.Thread(target=work, args=(call,), name=f"{stage.name}-{i}", daemon=True)
            for i, call in enumerate(stage.calls)
        ]


def _taking_from(queue: Queue[Any]) -> Callable[[], Any]:
    """What gives the items of a queue and then, however often it is asked, the end."""

    def take() -> Any:
        item = queue.get()
        if item is _END:
            queue.put(_END)  # for the stage's other threads; nobody else puts anything any more
        return item

    return take


class _Source:
    """Items for several threads, each to one of them; none once the line is to stop."""

    def __init__(self, items: Iterable[Any], line: _Line) -> None:
        self._items, self._line, self._lock = iter(items), line, threading.Lock()

    def take(self) -> Any:
        """The next item, or the end."""
        with self._lock:
            if self._line.is_stopping:
                return _END
            return next(self._items, _END)
