"""Threads with bounded queues: order, limits, errors, and ending early."""

from __future__ import annotations

import threading
import time

import pytest

from cellseg1_rt.jobs.stages import RetiredError, Stage, run_stages


def line(*stages: tuple[object, int], room: int = 2, drops: bool = False) -> list[Stage]:
    return [
        Stage(f"stage{i}", [call] * threads, room, drops)
        for i, (call, threads) in enumerate(stages)
    ]


@pytest.mark.parametrize("threads", [(1, 1, 1), (3, 1, 2), (2, 5, 3)])
@pytest.mark.parametrize("count", [0, 1, 2, 31])
def test_each_item_comes_out_once(threads, count):
    calls = [(lambda x: x + 1, threads[0]), (lambda x: x * 2, threads[1]), (str, threads[2])]
    found = list(run_stages(range(count), line(*calls, room=1), threading.Event()))
    expected = [str((x + 1) * 2) for x in range(count)]
    assert sorted(found) == sorted(expected)
    if threads == (1, 1, 1):
        assert found == expected


def test_a_slow_stage_holds_up_the_ones_before():
    taken: list[int] = []
    gate = threading.Event()

    def items():
        for number in range(100):
            taken.append(number)
            yield number

    def wait(item: int) -> int:
        assert gate.wait(30)
        return item

    stages = line((lambda x: x, 1), (wait, 1))
    found = run_stages(items(), stages, threading.Event())
    threading.Timer(0.3, gate.set).start()
    assert next(found) == 0
    # At the gate, in the two queues of two, in two hands, out, and one that was just taken.
    assert len(taken) <= 10
    assert list(found) == list(range(1, 100))


def test_the_first_error_ends_the_line_once_all_threads_have_ended():
    def fail_at_7(item: int) -> int:
        if item == 7:
            raise ValueError("seven")
        return item

    before = threading.active_count()
    found = run_stages(range(1000), line((lambda x: x, 2), (fail_at_7, 2)), threading.Event())
    with pytest.raises(ValueError, match="seven"):
        list(found)
    assert threading.active_count() == before


def test_an_error_among_the_items_ends_the_line():
    def items():
        yield 1
        raise OSError("the list of images")

    with pytest.raises(OSError, match="the list"):
        list(run_stages(items(), line((lambda x: x, 2), (lambda x: x, 1)), threading.Event()))


@pytest.mark.parametrize("drops", [False, True])
def test_stop_takes_no_more_items(drops):
    stop = threading.Event()
    stages = [Stage("a", [lambda x: x], 5), Stage("b", [lambda x: x], 1, drops_on_stop=drops)]
    found = run_stages(range(1000), stages, stop)
    first = next(found)
    stop.set()
    rest = list(found)
    assert first == 0
    assert rest == list(range(1, len(rest) + 1))
    assert len(rest) < 20


def test_a_caller_that_stops_asking_leaves_no_thread():
    before = threading.active_count()
    found = run_stages(range(1000), line((lambda x: x, 2), (lambda x: x, 2)), threading.Event())
    next(found)
    found.close()
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before


class Retiring:
    """A call that does some items and retires at the next one, which it gives back negative."""

    def __init__(self, count: int) -> None:
        self.left = count

    def __call__(self, item: int) -> int:
        if self.left == 0:
            raise RetiredError(-item, ValueError(f"retired at {item}"))
        self.left -= 1
        return item


@pytest.mark.parametrize("calls", [1, 2, 5])
def test_others_go_on_where_a_call_has_retired(calls):
    retiring = [Retiring(3) for _ in range(calls - 1)]
    stages = [
        Stage("a", [lambda x: x] * 2, 1),
        Stage("b", [*retiring, lambda x: time.sleep(0.001) or x], 1),
        Stage("c", [lambda x: x] * 3, 1),
    ]
    found = list(run_stages(range(1, 54), stages, threading.Event()))
    assert sorted(map(abs, found)) == list(range(1, 54))
    assert sum(x < 0 for x in found) == calls - 1


def extend(found: list[int], items) -> None:
    """As ``list.extend``, which forgets what came before an exception."""
    for item in items:
        found += [item]


@pytest.mark.parametrize("calls", [1, 3])
def test_when_all_have_retired_what_is_behind_them_is_finished_and_the_reason_raised(calls):
    before = threading.active_count()
    stages = [
        Stage("a", [lambda x: x] * 2, 1),
        Stage("b", [Retiring(4) for _ in range(calls)], 31, drops_on_stop=True),
        Stage("c", [lambda x: time.sleep(0.01) or x], 1),
    ]
    found: list[int] = []
    with pytest.raises(ValueError, match="retired at"):
        extend(found, run_stages(range(1, 1000), stages, threading.Event()))
    assert len(found) == 5 * calls
    assert sum(x < 0 for x in found) == calls
    assert threading.active_count() == before
