"""Tables of cells as Parquet: one an image, and one for a whole job.

The tables of images are files of their own, so a job that was killed loses none: the table of the
job is made from them at the end, whatever order they were finished in.

Imports numpy; pyarrow (extra ``tables``) inside.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.errors import InputError
from cellseg1_rt.extras import require
from cellseg1_rt.files import atomic_path

if TYPE_CHECKING:
    import pyarrow
    from pyarrow import parquet

__all__ = ["IMAGE_COLUMN", "JobTable", "write_cells_parquet"]

IMAGE_COLUMN = "image"
"""Which image a cell is in; only in the table of a job."""

_ROWS_IN_MEMORY = 2**16  # a row group holds no more either


def write_cells_parquet(path: str | PathLike[str], table: Mapping[str, NDArray[Any]]) -> None:
    """Write the table of one image. Equal arguments give equal bytes.

    Parameters
    ----------
    table : columns [K] by name, see ``tables.table_from_cells``. Intensities are stored as float64
        whatever the image's dtype, so that the tables of all images fit together.

    Raises
    ------
    MissingExtraError : if pyarrow is not installed.
    """
    require("pyarrow", extra="tables", needed_for="the format parquet")
    import pyarrow
    from pyarrow import parquet

    columns = {
        name: values.astype(np.float64) if name.startswith(("min_", "max_")) else values
        for name, values in table.items()
    }
    with atomic_path(Path(path)) as temporary:
        parquet.write_table(pyarrow.table(columns), temporary)


class JobTable:
    """The table of a job: tell it of every finished image, then close it.

    Images may come in any order, and those finished by an earlier run are told of again. Nothing is
    written before ``close``, so there is nothing to clean up after a crash.

    Parameters
    ----------
    path : the file to write.

    Raises
    ------
    MissingExtraError : if pyarrow is not installed.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        require("pyarrow", extra="tables", needed_for="the table of a job")
        self.path = Path(path)
        self._parts: dict[str, str] = {}
        self._schemas: dict[tuple[str, ...], pyarrow.Schema] = {}

    def add(self, image: str, part: str | PathLike[str]) -> None:
        """Take in the table of an image, as written by ``write_cells_parquet``.

        Parameters
        ----------
        image : what ``IMAGE_COLUMN`` will say; each image once.
        part : the file. It is read again by ``close``, so it has to stay until then.

        Raises
        ------
        InputError : if the file cannot be read, or an image of that name was added before.
        """
        if image in self._parts:
            raise InputError(
                "two tables for one image",
                where=image,
                got=f"{self._parts[image]} and {part}",
                expected="each image once",
            )
        with _opened(part) as file:
            schema = file.schema_arrow
        self._parts[image] = str(part)
        self._schemas.setdefault(tuple(schema.names), schema)

    def close(self) -> None:
        """Write one row a cell, images in the order of their names and cells in that of labels.

        Columns that only some images have are empty for the others. Memory is bounded by a row
        group and the largest image's table. The same tables give the same bytes.

        Raises
        ------
        InputError : if a table is gone or has changed.
        """
        from pyarrow import parquet

        schema = self._schema()
        with (
            atomic_path(self.path) as temporary,
            parquet.ParquetWriter(temporary, schema) as writer,
        ):
            for table in self._groups(schema):
                writer.write_table(table, row_group_size=_ROWS_IN_MEMORY)

    def _schema(self) -> pyarrow.Schema:
        """All columns, those of the widest table first: does not depend on the order of images."""
        import pyarrow

        widest_first = sorted(self._schemas.items(), key=lambda item: (-len(item[0]), item[0]))
        image = pyarrow.schema([(IMAGE_COLUMN, pyarrow.string())])
        return pyarrow.unify_schemas([image, *(schema for _, schema in widest_first)])

    def _groups(self, schema: pyarrow.Schema) -> Iterator[pyarrow.Table]:
        """The rows of all images in blocks that are as large as may be held."""
        import pyarrow

        held: list[pyarrow.Table] = []
        for image in sorted(self._parts):
            table = self._read(image, schema)
            if sum(map(len, held)) + len(table) > _ROWS_IN_MEMORY and held:
                yield pyarrow.concat_tables(held)
                held = []
            held.append(table)
        if held:
            yield pyarrow.concat_tables(held)

    def _read(self, image: str, schema: pyarrow.Schema) -> pyarrow.Table:
        import pyarrow

        with _opened(self._parts[image]) as file:
            table = file.read(use_threads=False)
        columns = [pyarrow.repeat(pyarrow.scalar(image), len(table))]
        for field in list(schema)[1:]:
            known = field.name in table.column_names
            columns.append(table[field.name] if known else pyarrow.nulls(len(table), field.type))
        return pyarrow.table(columns, schema=schema)


@contextmanager
def _opened(part: str | PathLike[str]) -> Iterator[parquet.ParquetFile]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(Path(part)) as file:
            yield file
    except (OSError, pyarrow.ArrowException) as error:
        raise InputError(
            "a table that cannot be read",
            where=part,
            got=f"{type(error).__name__}: {error}",
            expected="the cells of one image, as Parquet",
            fix="segment that image again",
        ) from error
