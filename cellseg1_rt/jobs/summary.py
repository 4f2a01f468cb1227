"""The summary of a job: ``job.json``, whose keys are stable.

Imports the standard library.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from cellseg1_rt.jobs.tally import Failure, Tally
from cellseg1_rt.version import __version__

__all__ = ["SUMMARY_VERSION", "Summary"]

SUMMARY_VERSION = 1


@dataclass(frozen=True)
class Summary:
    """How a job, or a shard of one, stands after a run.

    Attributes
    ----------
    ended : ``finished``, or ``interrupted`` or ``stopped`` with images left.
    shard : as in ``2/4``; None if there are none.
    images : in all; ``done`` of them are done, ``before`` of these by earlier runs, ``failed``
        failed in this one, ``left`` were not begun.
    cells : in all that are done.
    seconds : wall time of this run.
    images_per_s : done or failed in this run, by its wall time.
    device_share : share of the time in which devices were at work, 0..1.
    stage_seconds : of this run, over all threads of a stage.
    settings : of the job.
    failures : of this run.
    """

    ended: str
    shard: str | None
    started: str
    finished: str
    images: int
    done: int
    before: int
    failed: int
    left: int
    cells: int
    seconds: float
    images_per_s: float
    device_share: float
    stage_seconds: dict[str, float]
    settings: dict[str, Any]
    failures: tuple[Failure, ...]

    @classmethod
    def of(
        cls,
        tally: Tally,
        *,
        ended: str,
        shard: str | None,
        started: str,
        finished: str,
        settings: dict[str, Any],
    ) -> Summary:
        """The summary of what was counted."""
        seconds, failed = tally.elapsed_s, len(tally.failures)
        return cls(
            ended=ended,
            shard=shard,
            started=started,
            finished=finished,
            images=tally.images,
            done=tally.done + tally.before,
            before=tally.before,
            failed=failed,
            left=tally.left,
            cells=tally.cells,
            seconds=round(seconds, 3),
            images_per_s=round((tally.done + failed) / seconds, 3) if seconds > 0 else 0.0,
            device_share=round(tally.device_share, 3),
            stage_seconds={name: round(spent, 3) for name, spent in sorted(tally.seconds.items())},
            settings=settings,
            failures=tuple(tally.failures),
        )

    def to_json(self) -> str:
        """The text of ``job.json``."""
        values = {"version": SUMMARY_VERSION, "cellseg1_rt": __version__, **asdict(self)}
        return json.dumps(values, indent=2, ensure_ascii=False) + "\n"
