"""Seconds by stage, each second to one stage only; functions that a module calls can be tapped.

For one thread. Imports the standard library only.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

__all__ = ["Stopwatch", "Tap", "tapped"]


class Stopwatch:
    """Adds wall time to stages. A stage inside another stops the outer one until it ends.

    Attributes
    ----------
    seconds : what each stage took by itself.
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self.seconds: dict[str, float] = {}
        self._now, self._open, self._since = now, list[str](), 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what happens inside the block."""
        self._charge()
        self._open.append(name)
        try:
            yield
        finally:
            self._charge()
            self._open.pop()

    def _charge(self) -> None:
        now = self._now()
        if self._open:
            name = self._open[-1]
            self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
        self._since = now


@dataclass(frozen=True)
class Tap:
    """A function to time.

    Attributes
    ----------
    owner, name : the module that looks the function up, and its name there.
    stage : what its time is added to.
    observe : is told what it returned, outside of the stage's time.
    """

    owner: Any
    name: str
    stage: str
    observe: Callable[[Any], None] | None = None


@contextmanager
def tapped(watch: Stopwatch, taps: Sequence[Tap]) -> Iterator[None]:
    """Time functions where they are called, and leave them as they were.

    So it is the pipeline itself that is timed, not a copy of it that could fall behind.
    """
    before = [(tap, getattr(tap.owner, tap.name)) for tap in taps]
    try:
        for tap, function in before:
            setattr(tap.owner, tap.name, _timed(watch, tap, function))
        yield
    finally:
        for tap, function in before:
            setattr(tap.owner, tap.name, function)


def _timed(watch: Stopwatch, tap: Tap, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def run(*arguments: Any, **named: Any) -> Any:
        with watch.stage(tap.stage):
            value = function(*arguments, **named)
        if tap.observe is not None:
            tap.observe(value)
        return value

    return run
