"""What journals say: read once to check every line, then line by line where one is asked for.

A job of a million images holds a number an image, not a line. Imports the standard library.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence, ValuesView
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cellseg1_rt.errors import ConfigError
from cellseg1_rt.jobs.records import Record

__all__ = ["JOURNAL_VERSION", "Past", "Records", "read_past", "records_of"]

JOURNAL_VERSION = 1


class Records(Mapping[str, Record]):
    """Lines of one journal by the image's name, read from the file when they are asked for.

    Lines are only ever added to a journal, so where one begins does not change.

    Parameters
    ----------
    path : the journal.
    places : the byte at which each line begins, by name.
    """

    def __init__(self, path: Path, places: dict[str, int]) -> None:
        self._path, self._places = path, places

    def __getitem__(self, name: str) -> Record:
        place = self._places[name]
        with self._path.open("rb") as file:
            file.seek(place)
            values = _parsed(file.readline())
        if values is None or values.get("name") != name:
            raise ConfigError(
                "the journal was changed while it was in use",
                where=self._path,
                expected=f"the line of {name} at byte {place}",
                fix="end what else writes it, then run the same command again",
            )
        return Record.from_dict(values)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def values(self) -> ValuesView[Record]:
        """All of them, in one pass over the file."""
        return _Lines(self)

    def _in_order(self) -> Iterator[Record]:
        place = 0
        for _, line, values in _lines_of(self._path):
            if values is not None and self._places.get(values.get("name", "")) == place:
                yield Record.from_dict(values)
            place += len(line)


class _Lines(ValuesView[Record]):
    _mapping: Records

    def __iter__(self) -> Iterator[Record]:
        return self._mapping._in_order()


@dataclass(frozen=True)
class Past:
    """What a journal says.

    Attributes
    ----------
    path : the file.
    settings : of the job; None where the file is missing or holds no line.
    records : the last line of each image that says it is done, by name. Failures are not kept:
        they are tried again.
    good_bytes : up to where the file is whole lines.
    """

    path: Path
    settings: dict[str, Any] | None = None
    records: Mapping[str, Record] = field(default_factory=dict)
    good_bytes: int = 0


def read_past(path: Path) -> Past:
    """Read a journal, without what was cut off at its end.

    Raises
    ------
    ConfigError : if there is damage before the end, or the journal is of another version.
    """
    settings: dict[str, Any] | None = None
    places: dict[str, int] = {}
    good_bytes = 0
    for number, line, values in _lines_of(path):
        try:
            if number == 1:
                settings = _settings_of(values, path)
            else:
                record = Record.from_dict(values or {})
                if record.is_done:
                    places[record.name] = good_bytes
        except (KeyError, TypeError) as error:
            raise ConfigError(
                "the journal is damaged",
                where=f"{path}, line {number}",
                got=repr(line[:40].decode("utf-8", "replace")),
                expected="a line that segment wrote",
                fix="remove that line to have its image done again, or pass --overwrite",
            ) from error
        good_bytes += len(line)
    return Past(path, settings, Records(path, places), good_bytes)


def records_of(pasts: Sequence[Past]) -> Mapping[str, Record]:
    """The last done line of each image in several journals, those of the shards of one job."""
    parts = [past.records for past in pasts]
    return parts[0] if len(parts) == 1 else _Latest(parts)


class _Latest(Mapping[str, Record]):
    def __init__(self, parts: Sequence[Mapping[str, Record]]) -> None:
        self._parts = parts

    def __getitem__(self, name: str) -> Record:
        found = [part[name] for part in self._parts if name in part]
        if not found:
            raise KeyError(name)
        return max(found, key=lambda record: record.finished)

    def __iter__(self) -> Iterator[str]:
        for index, part in enumerate(self._parts):
            before = self._parts[:index]
            yield from (name for name in part if not any(name in other for other in before))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _lines_of(path: Path) -> Iterator[tuple[int, bytes, dict[str, Any] | None]]:
    """Number, bytes and values of each line, but for what was cut off at the end.

    A line that is no object is given, with None, where one that is follows it: that is damage. At
    the end it is what a power cut left: half a line, or blocks of zeros.
    """
    bad: list[tuple[int, bytes]] = []
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                values = _parsed(line) if line.endswith(b"\n") else None
                if values is None:
                    bad = bad or [(number, line)]
                    continue
                for first, text in bad:
                    yield first, text, None
                yield number, line, values
    except FileNotFoundError:
        return


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        values = json.loads(line.decode("utf-8", "surrogateescape"))
    except ValueError:
        return None
    return values if isinstance(values, dict) else None


def _settings_of(values: dict[str, Any] | None, path: Path) -> dict[str, Any]:
    if values is None:
        raise TypeError("no object")
    version = values["journal"]
    if version != JOURNAL_VERSION:
        raise ConfigError(
            "a journal of another version",
            where=path,
            got=version,
            expected=JOURNAL_VERSION,
            fix="choose another folder, or pass --overwrite to start afresh",
        )
    return dict(values["settings"])
