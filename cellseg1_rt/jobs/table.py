"""One table of all cells of a job, from the tables of its images.

Imports pyarrow (extra ``tables``) through ``formats.parquet``.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from cellseg1_rt.formats.parquet import JobTable
from cellseg1_rt.jobs.records import Record

__all__ = ["CellTable"]


class CellTable:
    """The sink that makes ``cells.parquet``, in a shard ``cells-2of4.parquet``.

    Parameters
    ----------
    folder : the job's.
    part : what the names of its files end in before their suffix.
    """

    def __init__(self, folder: Path, part: str) -> None:
        self._folder, self.file = folder, f"cells{part}.parquet"

    def write(self, path: Path, done: Iterable[Record]) -> None:
        """Write the rows of all images, in the order of ``done``."""
        table = JobTable(path)
        for record in done:
            for output in record.outputs:
                if output.format == "parquet":
                    table.add(record.name, self._folder / output.file)
        table.close()
