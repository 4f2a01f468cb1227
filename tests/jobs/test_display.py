"""Counts, the line they make, and what goes to a log and to a terminal."""

from __future__ import annotations

import io
import re
from pathlib import Path

from cellseg1_rt.errors import InputError
from cellseg1_rt.jobs import display
from cellseg1_rt.jobs.display import show_job
from cellseg1_rt.jobs.inputs import Task
from cellseg1_rt.jobs.outcomes import Outcome
from cellseg1_rt.jobs.tally import Tally


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def outcome(error: str | None = None, cells: int = 7, segment_s: float = 1.5) -> Outcome:
    task = Task("a", Path("a.png"), {})
    # What was segmented is of no interest to the counts, but that something was.
    done = object()
    failure = None if error is None else InputError(error, where="a.png")
    return Outcome(
        task,
        None if failure else done,  # type: ignore[arg-type]
        0 if failure else cells,
        failure,
        None,
        {"segment": segment_s},
    )


def skipped(cells: int = 3) -> Outcome:
    return Outcome(Task("b", Path("b.png"), {}), None, cells, None, None, {})


def test_counts_speed_and_time_left():
    clock = Clock()
    tally = Tally(images=107, devices=2, clock=clock)
    assert tally.line() == "0 of 107 done, 0 failed, 0.0 images/s, 0 cells, device 0%"
    for _ in range(5):
        tally.add(skipped())
    assert tally.images_per_s == 0
    for number in range(30):
        clock.now += 2.0
        tally.add(outcome("bad") if number == 7 else outcome())
    assert (tally.done, tally.before, tally.left) == (29, 5, 72)
    assert tally.images_per_s == 0.5
    assert tally.device_share == 30 * 1.5 / (60 * 2)
    assert tally.line() == (
        "34 of 107 done, 1 failed, 0.5 images/s, 218 cells, device 38%, 2:24 left"
    )


def test_speed_is_that_of_the_last_images():
    clock = Clock()
    tally = Tally(images=1000, clock=clock)
    for spent in (10.0, 0.1):
        for _ in range(300):
            clock.now += spent
            tally.add(outcome())
    assert round(tally.images_per_s, 6) == 10
    clock.now += 0.01
    assert tally.line().endswith("0:40 left")


def test_a_log_has_each_failure_once_and_a_line_now_and_then(monkeypatch):
    stream, clock = io.StringIO(), Clock()
    monkeypatch.setattr(display.time, "monotonic", clock)
    tally = Tally(images=5)
    with show_job(stream) as report:
        for each in (outcome(), outcome("cut off"), outcome()):
            clock.now += 6
            tally.add(each)
            report(each, tally)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "error: a.png: cut off"
    assert lines[1].startswith("1 of 5 done, 1 failed")
    assert len(lines) == 2


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_has_one_line_that_lives_and_each_failure_once(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    stream, tally = Terminal(), Tally(images=5)
    with show_job(stream) as report:
        for each in (outcome(), outcome("cut off " * 30), outcome()):
            tally.add(each)
            report(each, tally)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", stream.getvalue())
    assert text.count("error: a.png: cut off") == 1
    assert "2 of 5 done, 1 failed" in text
