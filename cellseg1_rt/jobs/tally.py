"""How far a job is: counts, speed, time left. Imports the standard library."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from cellseg1_rt.jobs.outcomes import Outcome

__all__ = ["Failure", "Tally"]

_WINDOW = 200  # images over which the speed is taken


@dataclass(frozen=True)
class Failure:
    """One image that could not be done, and why."""

    source: str
    error: str


@dataclass
class Tally:
    """Counts of a run.

    Attributes
    ----------
    images : in this job, or this shard of it.
    devices : that work side by side.
    done : in this run; ``before`` is how many an earlier run had done.
    cells : of both.
    failures : in the order in which they were met.
    seconds : spent in each stage, over all its threads.
    """

    images: int
    devices: int = 1
    done: int = 0
    before: int = 0
    cells: int = 0
    failures: list[Failure] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    clock: Callable[[], float] = time.perf_counter

    def __post_init__(self) -> None:
        self._started = self.clock()
        self._finished: deque[float] = deque([self._started], maxlen=_WINDOW)

    def add(self, outcome: Outcome) -> None:
        """Count one image."""
        if outcome.was_done_before:
            self.before += 1
        else:
            self._finished.append(self.clock())
            if outcome.error is None:
                self.done += 1
            else:
                self.failures.append(Failure(outcome.task.where, str(outcome.error)))
        self.cells += outcome.cells
        for stage, spent in outcome.seconds.items():
            self.seconds[stage] = self.seconds.get(stage, 0.0) + spent

    @property
    def elapsed_s(self) -> float:
        """Since the run began."""
        return self.clock() - self._started

    @property
    def left(self) -> int:
        """Images that nothing is known of yet."""
        return self.images - self.done - self.before - len(self.failures)

    @property
    def images_per_s(self) -> float:
        """Over the last images; 0 before the first."""
        spent = self.clock() - self._finished[0]
        return (len(self._finished) - 1) / spent if spent > 0 else 0.0

    @property
    def device_share(self) -> float:
        """Share of the time in which devices were at work, 0..1."""
        spent = self.elapsed_s * self.devices
        return min(1.0, self.seconds.get("segment", 0.0) / spent) if spent > 0 else 0.0

    def line(self) -> str:
        """All of it, for a person."""
        speed = self.images_per_s
        parts = [
            f"{self.done + self.before} of {self.images} done",
            f"{len(self.failures)} failed",
            f"{speed:.1f} images/s",
            f"{self.cells} cells",
            f"device {self.device_share:.0%}",
        ]
        if speed > 0 and self.left:
            parts.append(f"{_clock_time(self.left / speed)} left")
        return ", ".join(parts)


def _clock_time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
