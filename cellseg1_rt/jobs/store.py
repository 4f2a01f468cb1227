"""A job's folder as the pipeline sees it: stage, journal, publish; and what the whole job makes.

Imports the standard library.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from cellseg1_rt.errors import ConfigError
from cellseg1_rt.jobs.faults import as_failure, with_retries
from cellseg1_rt.jobs.folder import JobFolder
from cellseg1_rt.jobs.inputs import Task
from cellseg1_rt.jobs.outcomes import Outcome
from cellseg1_rt.jobs.past import read_past
from cellseg1_rt.jobs.records import InputFile, OutputFile, Record
from cellseg1_rt.jobs.staging import remove

__all__ = ["JobStore", "Sink"]


class Sink(Protocol):
    """A file that a whole job makes, such as one table of all cells.

    It is made at the end of every run, whatever ended it, from what the images' own outputs hold.
    So a job that was cut gives the same file as one that was not.

    Attributes
    ----------
    file : its name in the job's folder.
    """

    file: str

    def write(self, path: Path, done: Iterable[Record]) -> None:
        """Write the file to ``path``, from where it is moved to its place.

        ``done`` is every image of the job that is done, in the order of their names, once.
        """


class JobStore:
    """Keeps outcomes in a job's folder.

    Parameters
    ----------
    folder : opened for this run.
    stop : ends the waiting between tries.
    """

    def __init__(self, folder: JobFolder, stop: threading.Event) -> None:
        self._folder, self._stop = folder, stop
        self._failed: set[str] = set()

    def cells_before(self, task: Task) -> int | None:
        """The cells of an image that need not be done again; see ``JobFolder.done_before``."""
        record = self._folder.done_before(task)
        return None if record is None else record.cells

    def describe(self, task: Task) -> InputFile | None:
        """Size, time of change and hash of an image's file."""
        return InputFile.of(task.source, task.plane)

    def place(self, output: Path) -> Path:
        """In the hidden folder."""
        return self._folder.staging.place(output)

    def keep(self, outcome: Outcome) -> None:
        """Write the line, then give the outputs their names.

        Raises
        ------
        JobEndedError, ConfigError : if either fails.
        """
        staged = {name: self.place(path) for name, path in outcome.task.outputs.items()}
        try:
            outputs = with_retries(
                lambda: tuple(OutputFile.of(name, path) for name, path in staged.items()),
                self._stop,
            )
            self._folder.journal.add(self._record(outcome, outputs))
            self._folder.staging.publish(outputs)
        except OSError as error:
            raise _broken(error, self._folder) from error

    def adopt(self, outcome: Outcome, folder: Path) -> None:
        """The same for outputs that a worker in another process has made in ``folder``.

        They are moved into the hidden folder and hashed as they are seen from here.

        Raises
        ------
        JobEndedError, ConfigError : if that fails.
        """
        try:
            for path in outcome.task.outputs.values():
                remove(self.place(path))
                os.replace(folder / path.name, self.place(path))
        except OSError as error:
            raise _broken(error, self._folder) from error
        self.keep(outcome)

    def fail(self, outcome: Outcome) -> None:
        """Write a line that says why, and remove what was made of the image.

        Raises
        ------
        JobEndedError, ConfigError : if that fails.
        """
        self._failed.add(outcome.task.name)
        try:
            self._folder.staging.discard(outcome.task.outputs.values())
            self._folder.journal.add(self._record(outcome, ()))
        except OSError as error:
            raise _broken(error, self._folder) from error

    def done(self, tasks: Iterable[Task]) -> Iterator[Record]:
        """The lines of those tasks that are done, in the order of their names."""
        now = read_past(self._folder.journal.path).records
        for name in sorted({task.name for task in tasks} - self._failed):
            records = now if name in now else self._folder.records
            if name in records:
                yield records[name]

    def _record(self, outcome: Outcome, outputs: tuple[OutputFile, ...]) -> Record:
        return Record(
            name=outcome.task.name,
            input=outcome.file,
            settings=self._folder.settings_hash,
            outputs=outputs,
            cells=outcome.cells,
            seconds={name: round(value, 4) for name, value in outcome.seconds.items()},
            error=None if outcome.error is None else str(outcome.error),
            finished=datetime.now(UTC).isoformat(timespec="milliseconds"),
        )


def _broken(error: OSError, folder: JobFolder) -> ConfigError:
    failure = as_failure(error, folder.journal.path, "cannot be written")
    return ConfigError(
        failure.what,
        where=failure.where,
        got=failure.got,
        fix=failure.fix or "look at the drive, then run the same command again",
    )
