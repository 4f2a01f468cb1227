"""A job's folder: who wrote what is in it, what may be replaced, and what is done already.

The rules are told in docs/jobs.md. Imports the standard library.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, suppress
from enum import Enum
from pathlib import Path
from typing import Any

from cellseg1_rt.errors import ConfigError, InputError
from cellseg1_rt.jobs.identity import hash_of_settings, require_same_settings
from cellseg1_rt.jobs.inputs import Shard, Task
from cellseg1_rt.jobs.journal import Journal
from cellseg1_rt.jobs.past import Past, read_past, records_of
from cellseg1_rt.jobs.records import Record
from cellseg1_rt.jobs.staging import Staging, remove

__all__ = ["JobFolder", "Mode", "require_free"]


class Mode(Enum):
    """What is done with what a folder holds.

    ``GO_ON`` makes what is missing and replaces nothing; ``RESUME`` also makes again what was
    changed since; ``OVERWRITE`` starts afresh.
    """

    GO_ON = "go on"
    RESUME = "resume"
    OVERWRITE = "overwrite"


def require_free(folder: Path, tasks: Iterable[Task], mode: Mode) -> None:
    """Refuse a folder in which outputs would replace files that no journal there tells of.

    Raises
    ------
    ConfigError : naming the first of them. Nothing was written.
    """
    if mode is Mode.OVERWRITE or not folder.is_dir():
        return
    pasts = [read_past(path) for path in _journals(folder)]
    taken = set(os.listdir(folder))
    for past in pasts:
        for record in past.records.values():
            taken.difference_update(output.file for output in record.outputs)
    in_the_way = [path for task in tasks for path in task.outputs.values() if path.name in taken]
    if in_the_way:
        raise ConfigError(
            f"{len(in_the_way)} of the outputs are there already",
            where=in_the_way[0],
            expected="none that this job did not write" if pasts else None,
            fix="pass --overwrite to replace them, or choose another folder",
        )


class JobFolder:
    """A folder opened for a run: its journal is held, and leftovers of a killed run are settled.

    Parameters
    ----------
    folder : exists and can be written to.
    settings : the job's.
    shard : has a journal of its own, so that shards can share the folder.

    Attributes
    ----------
    journal, staging : of this run.
    part : what the names of its files end in before their suffix: nothing, or as in ``-2of4``.
    records : what was done before, by image, in this and in other shards.

    Raises
    ------
    ConfigError : if the folder holds a job with other settings, a damaged journal, or another run
        is at work there.
    """

    def __init__(
        self,
        folder: Path,
        settings: dict[str, Any],
        tasks: Sequence[Task],
        mode: Mode,
        shard: Shard | None = None,
    ) -> None:
        self.folder, self.settings = folder, settings
        self.part = "" if shard is None else shard.part
        self.settings_hash = hash_of_settings(settings)
        self._keeps_changed = mode is Mode.GO_ON
        self.journal = Journal(folder / f"journal{self.part}.jsonl")
        try:
            if mode is Mode.OVERWRITE:
                self._start_afresh(tasks)
            self.records: Mapping[str, Record] = (
                {} if mode is Mode.OVERWRITE else records_of(self._go_on())
            )
            self.staging = Staging(folder, _part_of(self.journal.path))
            self.staging.open(self.records.values())
        except BaseException:
            self.journal.close()
            raise

    def close(self) -> None:
        """Leave the folder to others."""
        self.staging.close()
        self.journal.close()

    def done_before(self, task: Task) -> Record | None:
        """The line of an image that need not be done again; reads its outputs, if it must its file.

        Outputs are compared by hash. The image is the same if path, size and time of change are;
        else its bytes are hashed and decide.

        Raises
        ------
        InputError : if an output was changed since it was written, and may not be replaced.
        """
        record = self.records.get(task.name)
        if record is None or record.settings != self.settings_hash:
            return None
        is_whole = True
        for output in record.outputs:
            if not output.is_intact(self.folder):
                is_whole = False
                if self._keeps_changed and (self.folder / output.file).exists():
                    raise InputError(
                        "changed since it was written, so this image is left alone",
                        where=self.folder / output.file,
                        fix="pass --resume to have it made again, or move it away",
                    )
        is_same = record.input is not None and record.input.is_same_as(task.source, task.plane)
        return record if is_whole and is_same else None

    def _go_on(self) -> list[Past]:
        """Read every shard's journal, and settle what killed runs of other shards left."""
        pasts = [read_past(path) for path in _journals(self.folder)]
        for past in pasts:
            if past.settings is not None:
                require_same_settings(past.settings, self.settings, past.path)
        records = records_of(pasts).values()
        for past in pasts:
            if past.path == self.journal.path:
                self.journal.start(self.settings, past.good_bytes)
                continue
            left = Staging(self.folder, _part_of(past.path))
            if left.path.exists():
                with suppress(ConfigError), closing(Journal(past.path, patience_s=0)):
                    left.open(records)
                    left.close()  # none of that where another run holds the journal
        return pasts

    def _start_afresh(self, tasks: Iterable[Task]) -> None:
        """Remove journals of other jobs and all that is to be replaced, then empty the journal."""
        for path in _journals(self.folder):
            if path != self.journal.path and _is_of_another_job(path, self.settings):
                with closing(Journal(path)):  # an error if a run holds it
                    Staging(self.folder, _part_of(path)).close()
                    path.unlink()
        there = set(os.listdir(self.folder))
        for task in tasks:
            for output in task.outputs.values():
                if output.name in there:
                    remove(output)
        self.journal.start(self.settings)


def _journals(folder: Path) -> list[Path]:
    return sorted(folder.glob("journal*.jsonl"))


def _part_of(journal: Path) -> str:
    """``2of4`` from ``journal-2of4.jsonl``, and ``job`` from ``journal.jsonl``."""
    return journal.stem.removeprefix("journal").removeprefix("-") or "job"


def _is_of_another_job(journal: Path, settings: dict[str, Any]) -> bool:
    try:
        return read_past(journal).settings not in (None, settings)
    except ConfigError:  # damaged, or of another version
        return True
