"""Outputs on their way: made in a hidden folder, written into the journal, then given their names.

That order is what makes a job safe to kill at any moment. Before the line, whatever is in the
hidden folder is a leftover. After it, the file there is whole, and giving it its name can be made
up for on the next start. Imports the standard library.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from cellseg1_rt.files import TEMPORARY_PREFIX, sync_folder
from cellseg1_rt.jobs.records import OutputFile, Record

__all__ = ["Staging", "remove"]


class Staging:
    """The hidden folder of one job, or of one shard of it.

    Parameters
    ----------
    folder : the job's folder.
    name : what tells the shards of a job apart.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.path = folder, folder / f"{TEMPORARY_PREFIX}{name}"
        self._owed: set[str] = set()

    def open(self, records: Iterable[Record]) -> None:
        """Make the folder, or settle what a killed run left in it: finish that, or remove it."""
        if self.path.exists():
            leftovers = {path.name: path for path in self.path.iterdir()}
            written = {
                output.file: output
                for record in (records if leftovers else ())
                for output in record.outputs
                if output.file in leftovers
            }
            for name, leftover in leftovers.items():
                output = written.get(name)
                if output is not None and output.is_intact(self.path):
                    self._publish(output.file)
                else:
                    remove(leftover)
            sync_folder(self.folder)
        self.path.mkdir(exist_ok=True)

    def close(self) -> None:
        """Remove the folder, unless outputs in it have their line and could not get their names."""
        if not self._owed:
            remove(self.path)

    def place(self, output: Path) -> Path:
        """Where an output is to be made."""
        return self.path / output.name

    def discard(self, outputs: Iterable[Path]) -> None:
        """Remove what was made of an image that failed."""
        for output in outputs:
            remove(self.place(output))

    def publish(self, outputs: Iterable[OutputFile]) -> None:
        """Give outputs their names, replacing what has them, and flush the names to the disk."""
        names = [output.file for output in outputs]
        self._owed.update(names)
        for name in names:
            self._publish(name)
        sync_folder(self.folder)
        self._owed.difference_update(names)

    def publish_file(self, name: str) -> None:
        """The same for one file that the journal does not tell of."""
        self._publish(name)
        sync_folder(self.folder)

    def _publish(self, name: str) -> None:
        target = self.folder / name
        if target.is_dir():  # a folder cannot be replaced in one step
            shutil.rmtree(target)
        os.replace(self.path / name, target)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
