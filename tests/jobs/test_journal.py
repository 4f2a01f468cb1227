"""Journals: what is read back, what is dropped, what is refused, and who may write."""

from __future__ import annotations

import json
import os
import tracemalloc
from dataclasses import asdict

import pytest

from cellseg1_rt.errors import ConfigError
from cellseg1_rt.jobs.journal import Journal
from cellseg1_rt.jobs.past import read_past, records_of
from cellseg1_rt.jobs.records import InputFile, OutputFile, Record

SETTINGS = {"score": 0.8}


def record(name: str = "a", error: str | None = None, finished: str = "2026-01-01") -> Record:
    file = InputFile(f"/in/{name}é.png", 17, 5, "0" * 64)
    outputs = () if error else (OutputFile("tif", f"{name}_labels.tif", 3, "1" * 64),)
    return Record(name, file, "s", outputs, 7, {"read": 0.1}, error, finished)


def written(path, *records: Record):
    journal = Journal(path)
    journal.start(SETTINGS, read_past(path).good_bytes)
    for each in records:
        journal.add(each)
    journal.close()
    return path


def test_what_was_written_is_read_back(tmp_path):
    path = written(tmp_path / "journal.jsonl", record("a"), record("b", error="bad"))
    past = read_past(path)
    assert past.settings == SETTINGS
    assert past.records == {"a": record("a")}
    assert past.good_bytes == path.stat().st_size
    assert len(path.read_text().splitlines()) == 3


def test_no_journal_is_an_empty_past(tmp_path):
    past = read_past(tmp_path / "none.jsonl")
    assert (past.settings, past.records, past.good_bytes) == (None, {}, 0)


def test_the_last_done_line_counts_and_a_later_failure_does_not_hide_it(tmp_path):
    lines = record("a", finished="1"), record("a", finished="2"), record("a", error="bad")
    past = read_past(written(tmp_path / "journal.jsonl", *lines))
    assert past.records["a"].finished == "2"


def test_of_shards_the_later_line_counts(tmp_path):
    pasts = [
        read_past(written(tmp_path / f"journal-{i}of2.jsonl", record("a", finished=when)))
        for i, when in enumerate(["2", "1"], start=1)
    ]
    assert records_of(pasts)["a"].finished == "2"
    assert records_of(pasts[::-1])["a"].finished == "2"


def test_lines_are_read_when_asked_for_and_the_newest_of_each_image(tmp_path):
    lines = [record(f"image{i % 7}", finished=f"{i:02}") for i in range(17)]
    lines.insert(5, record("image2", error="bad"))
    past = read_past(written(tmp_path / "journal.jsonl", *lines))
    expected = {each.name: each for each in lines if each.error is None}
    assert dict(past.records) == expected
    assert sorted(past.records.values(), key=lambda each: each.name) == [
        expected[name] for name in sorted(expected)
    ]
    assert len(past.records) == 7
    assert "image7" not in past.records
    # Lines that are added later change nothing of what was read.
    written(tmp_path / "journal.jsonl", record("image1", finished="99"))
    assert past.records["image1"] == expected["image1"]


def test_of_several_journals_each_image_is_told_once(tmp_path):
    parts = [["a", "b"], ["b", "c"], [], ["a", "d"]]
    pasts = [
        read_past(
            written(
                tmp_path / f"journal-{i}of4.jsonl",
                *(record(name, finished=str(i)) for name in names),
            )
        )
        for i, names in enumerate(parts, start=1)
    ]
    records = records_of(pasts)
    assert {name: each.finished for name, each in records.items()} == {
        "a": "4",
        "b": "2",
        "c": "2",
        "d": "4",
    }
    assert len(records) == 4
    with pytest.raises(KeyError):
        records["e"]


def test_a_journal_that_another_program_rewrote_is_named(tmp_path):
    path = written(tmp_path / "journal.jsonl", record("a"), record("b"))
    past = read_past(path)
    first, a, b, rest = path.read_bytes().split(b"\n")
    for lines in ([first, b, a, rest], [first[9:], a, b, rest]):
        path.write_bytes(b"\n".join(lines))
        with pytest.raises(
            ConfigError, match="changed while it was in use; expected the line of b"
        ):
            past.records["b"]


def test_an_image_costs_a_resumed_job_less_than_a_kilobyte(tmp_path):
    path, count = tmp_path / "journal.jsonl", 3001
    with path.open("wb") as file:
        file.write(b'{"journal":1,"settings":{}}\n')
        for number in range(count):
            values = asdict(record(f"plate_well{number:07}"))
            file.write(json.dumps(values).encode() + b"\n")
    tracemalloc.start()
    past = read_past(path)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(past.records) == count
    assert held < 300 * count
    assert peak < 600 * count


def test_every_cut_of_the_last_line_drops_that_line_only(tmp_path):
    path = written(tmp_path / "journal.jsonl", record("a"), record("b"))
    whole = path.read_bytes()
    start = len(b"\n".join(whole.split(b"\n")[:2])) + 1
    for size in range(start, len(whole)):
        path.write_bytes(whole[:size])
        past = read_past(path)
        assert list(past.records) == ["a"], size
        assert past.good_bytes == start
    # What is added after a cut begins a new line.
    written(path, record("c"))
    assert list(read_past(path).records) == ["a", "c"]


@pytest.mark.parametrize("tail", [b"\0" * 31, b"\0" * 17 + b"\n", b'{"name": 3\n{"na\n'])
def test_what_a_power_cut_leaves_at_the_end_is_dropped(tail, tmp_path):
    path = written(tmp_path / "journal.jsonl", record("a"))
    whole = path.read_bytes()
    path.write_bytes(whole + tail)
    assert list(read_past(path).records) == ["a"]
    written(path, record("b"))
    assert path.read_bytes()[: len(whole)] == whole
    assert list(read_past(path).records) == ["a", "b"]


@pytest.mark.parametrize("damage", [b"{}", b"\0\0", b'{"name": "a"}', b"[1]"])
def test_damage_before_the_end_is_named(damage, tmp_path):
    path = written(tmp_path / "journal.jsonl", record("a"), record("b"))
    first, _, last, _ = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([first, damage, last, b""]))
    with pytest.raises(ConfigError, match=r"line 2: the journal is damaged.*--overwrite"):
        read_past(path)


def test_another_version_is_refused(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_text(json.dumps({"journal": 99, "settings": {}}) + "\n")
    with pytest.raises(ConfigError, match="another version; got 99; expected 1"):
        read_past(path)


def test_one_process_at_a_time(tmp_path):
    path = tmp_path / "journal.jsonl"
    first = Journal(path)
    assert first.is_held
    with pytest.raises(ConfigError, match="another run is at work"):
        Journal(path, patience_s=0)
    first.close()
    Journal(path, patience_s=0).close()


def test_a_line_is_flushed_before_add_returns_and_one_that_fails_leaves_nothing(
    tmp_path, monkeypatch
):
    path = written(tmp_path / "journal.jsonl", record("a"))
    journal = Journal(path)
    flushed = []
    monkeypatch.setattr(os, "fsync", lambda handle: flushed.append(os.fstat(handle).st_size))
    journal.add(record("b"))
    size = path.stat().st_size
    assert flushed == [size]

    def fail(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        journal.add(record("c"))
    journal.close()
    assert path.stat().st_size == size
