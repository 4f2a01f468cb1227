"""A job from its plan to its summary: open the folder, send the images through, sum up.

``docs/jobs.md`` tells what a user sees of it.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from cellseg1_rt.errors import ConfigError
from cellseg1_rt.files import atomic_path, require_writable_folder
from cellseg1_rt.jobs.batch import Segmenter, run_tasks
from cellseg1_rt.jobs.display import Report
from cellseg1_rt.jobs.folder import JobFolder, Mode
from cellseg1_rt.jobs.inputs import Shard, Task
from cellseg1_rt.jobs.large import LargeImages
from cellseg1_rt.jobs.link_z import stacks_of_tasks
from cellseg1_rt.jobs.outcomes import Outcome
from cellseg1_rt.jobs.page import page_of_job
from cellseg1_rt.jobs.sheet import Sheet
from cellseg1_rt.jobs.store import JobStore, Sink
from cellseg1_rt.jobs.summary import Summary
from cellseg1_rt.jobs.table import CellTable
from cellseg1_rt.jobs.tally import Tally

__all__ = ["Elsewhere", "Job", "default_workers", "run_job"]


@dataclass(frozen=True)
class Job:
    """What to do.

    Attributes
    ----------
    tasks : images and their outputs, planned by ``plan_tasks``.
    folder : where outputs, journal and summary go; made if needed.
    settings : every setting that can change an output: ``settings_of_job``.
    resize : px a side to stretch images to first, or None.
    shard : the part of a larger job that ``tasks`` are; None is all of it.
    mode : what to do with what the folder holds.
    workers : threads that read, and as many that write.
    large : what is done with images that are cut into tiles; None segments each of them whole. Not
        used with workers elsewhere, which find out by themselves.
    link_z : link the slices of stacks at the end.
    """

    tasks: Sequence[Task]
    folder: Path
    settings: dict[str, Any]
    resize: int | None = None
    shard: Shard | None = None
    mode: Mode = Mode.GO_ON
    workers: int = 2
    large: LargeImages | None = None
    link_z: bool = False


class Elsewhere(Protocol):
    """Workers in other processes, which read, segment and write images themselves."""

    def __len__(self) -> int:
        """How many devices work side by side."""

    def run_tasks(
        self, tasks: Sequence[Task], store: JobStore, *, workers: int, stop: threading.Event
    ) -> Generator[Outcome]:
        """Work through tasks and keep what is made of them, as ``batch.run_tasks`` does."""


def run_job(
    job: Job,
    devices: Sequence[Segmenter] | Elsewhere,
    *,
    stop: threading.Event,
    report: Report,
) -> Summary:
    """Do what is not done yet of a job, and write ``job.json`` and ``job.html``.

    Parameters
    ----------
    devices : what segments, each in a thread of its own; or workers in other processes.
    stop : set to end early: images in flight are finished, the rest is left for the next run.
    report : called after each image.

    Raises
    ------
    ConfigError : if the folder cannot be used, holds another job or another run, or the disk is
        full. Journal, summary and outputs so far are kept.
    """
    require_writable_folder(job.folder)
    with closing(JobFolder(job.folder, job.settings, job.tasks, job.mode, job.shard)) as folder:
        run = _Run(job, folder, JobStore(folder, stop), len(devices))
        if isinstance(devices, Sequence):
            outcomes = run_tasks(
                devices,
                job.tasks,
                run.store,
                resize=job.resize,
                workers=job.workers,
                stop=stop,
                large=job.large,
            )
        else:
            outcomes = devices.run_tasks(job.tasks, run.store, workers=job.workers, stop=stop)
        try:
            with closing(outcomes):
                for outcome in outcomes:
                    run.add(outcome)
                    report(outcome, run.tally)
        except ConfigError:
            with suppress(OSError):  # on a full disk there may be no room for a summary either
                run.sum_up("stopped")
            raise
        return run.sum_up("interrupted" if run.tally.left else "finished")


class _Run:
    """One run of a job: what is counted and drawn on the way, and written at its end."""

    def __init__(self, job: Job, folder: JobFolder, store: JobStore, devices: int) -> None:
        self._job, self._folder, self.store = job, folder, store
        self.tally = Tally(len(job.tasks), devices)
        self._sheet = Sheet(job.tasks, job.resize)
        self._started = _now()

    def add(self, outcome: Outcome) -> None:
        """Count and draw an image."""
        self.tally.add(outcome)
        self._sheet.add(outcome)

    def sum_up(self, ended: str) -> Summary:
        """Write what the whole job makes, and its summary."""
        job, part = self._job, self._folder.part
        summary = Summary.of(
            self.tally,
            ended=ended,
            shard=None if job.shard is None else str(job.shard),
            started=self._started,
            finished=_now(),
            settings=job.settings,
        )
        for sink in _sinks_of(job, part, self.store):
            done = self.store.done(job.tasks)
            sink.write(self._folder.staging.place(Path(sink.file)), done)
            self._folder.staging.publish_file(sink.file)
        page = page_of_job(summary, self._sheet.pictures(), job.folder.name)
        _write(self._folder, f"job{part}.json", summary.to_json())
        _write(self._folder, f"job{part}.html", page)
        return summary


def _sinks_of(job: Job, part: str, store: JobStore) -> Iterator[Sink]:
    """What the job is to make besides each image's outputs."""
    if any("parquet" in task.outputs for task in job.tasks):
        yield CellTable(job.folder, part)
    if not job.link_z:
        return
    done = {record.name for record in store.done(job.tasks)}
    for stack in stacks_of_tasks(job.tasks):
        missing = sum(name not in done for name in stack.names)
        if not missing:
            yield stack
            continue
        print(
            f"{stack.file}: not linked: {missing} of {len(stack.names)} slices are missing",
            file=sys.stderr,
        )


def default_workers() -> int:
    """Readers, and writers, where nobody says how many: they mostly wait, for drives and zlib."""
    return min(4, max(2, (os.cpu_count() or 1) // 2))


def _write(folder: JobFolder, name: str, text: str) -> None:
    with atomic_path(folder.staging.place(Path(name))) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="surrogateescape", newline="\n")
    folder.staging.publish_file(name)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
