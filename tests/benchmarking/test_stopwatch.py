"""Every second goes to one stage, and a tap leaves no trace."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from cellseg1_rt.benchmarking.stopwatch import Stopwatch, Tap, tapped


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_stage_inside_another_stops_it():
    clock = Clock()
    watch = Stopwatch(clock)
    with watch.stage("outer"):
        clock.now += 2
        with watch.stage("inner"):
            clock.now += 3
            with watch.stage("outer"):
                clock.now += 5
        clock.now += 7
    clock.now += 11
    with watch.stage("inner"):
        clock.now += 13
    assert watch.seconds == {"outer": 14, "inner": 16}


def test_time_until_an_error_counts():
    clock = Clock()
    watch = Stopwatch(clock)

    def fail() -> None:
        with watch.stage("inner"):
            clock.now += 3
            raise ZeroDivisionError

    with watch.stage("outer"):
        with pytest.raises(ZeroDivisionError):
            fail()
        clock.now += 5
    assert watch.seconds == {"outer": 5, "inner": 3}


def test_taps_time_calls_and_are_taken_away():
    clock, seen = Clock(), []

    def work(seconds: int) -> int:
        clock.now += seconds
        return 10 * seconds

    module = SimpleNamespace(work=work)
    watch = Stopwatch(clock)
    with tapped(watch, [Tap(module, "work", "working", seen.append)]):
        assert module.work(3) == 30
        assert module.work(seconds=4) == 40
    assert (watch.seconds, seen) == ({"working": 7}, [30, 40])
    assert module.work is work


def test_taps_are_taken_away_after_an_error():
    module = SimpleNamespace(work=len)
    with pytest.raises(ZeroDivisionError), tapped(Stopwatch(), [Tap(module, "work", "working")]):
        raise ZeroDivisionError
    assert module.work is len
