"""Room at workers that may be lost: who can take an image, who is being started again.

Knows nothing of what the workers are. Imports the standard library.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cellseg1_rt.jobs.faults import JobEndedError

__all__ = ["PATIENCE_S", "Place", "Places"]

PATIENCE_S = 600.0
"""How long a job waits for a worker when all are away."""

_CHECK_S = 0.2  # how often those who wait look whether the job was stopped


@dataclass(frozen=True)
class Place:
    """Room for one image at a worker; ``alone`` is all the room that it has."""

    worker: Any
    number: int
    alone: bool


class Places:
    """A number of places at each worker. Used by several threads.

    Parameters
    ----------
    workers : all of them, at work.
    each : images that a worker takes at a time.
    stop : ends the waiting.
    revive : called with a worker that was lost, and with a function to be called, from any thread,
        when that is clear: with True if it is back, with False if it will not come back.
    patience_s : how long to wait when every worker is away.
    """

    def __init__(
        self,
        workers: Sequence[Any],
        each: int,
        stop: threading.Event,
        revive: Callable[[Any, Callable[[bool], None]], None],
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._workers, self._each, self._stop = list(workers), each, stop
        self._revive, self._patience_s = revive, patience_s
        self._in_use = [0] * len(self._workers)
        self._state: list[Literal["here", "away", "gone"]] = ["here"] * len(self._workers)
        self._reserved: int | None = None  # the worker that is kept free, or used, for one image
        self._changed = threading.Condition()
        self._seen = time.monotonic()  # when a worker was last here

    def __len__(self) -> int:
        """Places in all, with those of workers that are away."""
        return self._each * len(self._workers)

    def take(self, alone: bool = False) -> Place | None:
        """Room at the worker that has most, when there is some; None if the job was stopped first.

        ``alone`` waits for a worker to finish all it has, and keeps others away from it. That is
        for an image whose worker was lost: it may be the reason, or it may have been bad company.

        Raises
        ------
        JobEndedError : if no worker is left, or none came back in time.
        """
        find = self._find_alone if alone else self._find
        with self._changed:
            while not self._stop.is_set():
                place = find()
                if place is not None:
                    return place
                self._require_hope()
                self._changed.wait(_CHECK_S)
        return None

    def give_back(self, place: Place) -> None:
        """There is room again."""
        with self._changed:
            self._in_use[place.number] -= self._each if place.alone else 1
            if place.alone:
                self._reserved = None
            self._changed.notify_all()

    def give_up(self, place: Place) -> None:
        """The worker is lost: there is room at it when it is back."""
        self.give_back(place)
        number = place.number
        with self._changed:
            if self._state[number] != "here":
                return  # another image's thread said so
            self._state[number] = "away"

        def clear(is_back: bool) -> None:
            with self._changed:
                self._state[number] = "here" if is_back else "gone"
                self._seen = time.monotonic()
                self._changed.notify_all()

        self._revive(place.worker, clear)

    def _find(self) -> Place | None:
        free = [number for number in self._here() if self._in_use[number] < self._each]
        free = [number for number in free if number != self._reserved]
        if not free:
            return None
        number = min(free, key=self._in_use.__getitem__)
        self._in_use[number] += 1
        return Place(self._workers[number], number, alone=False)

    def _find_alone(self) -> Place | None:
        """A worker without any image; one worker at a time is kept free, and used, for that."""
        if self._reserved is None or self._state[self._reserved] != "here":
            self._reserved = min(self._here(), key=self._in_use.__getitem__, default=None)
        if self._reserved is None or self._in_use[self._reserved]:
            return None
        self._in_use[self._reserved] = self._each
        return Place(self._workers[self._reserved], self._reserved, alone=True)

    def _here(self) -> list[int]:
        return [number for number, state in enumerate(self._state) if state == "here"]

    def _require_hope(self) -> None:
        if "here" in self._state:
            self._seen = time.monotonic()
            return
        waited_s = time.monotonic() - self._seen
        is_gone = "away" not in self._state
        if is_gone or waited_s > self._patience_s:
            raise JobEndedError(
                "no worker is left, so the job ends here",
                where="--ray",
                got="all were lost for good" if is_gone else f"none came back in {waited_s:.0f} s",
                fix="look at the cluster, then run the same command again: what is done is kept",
            )
