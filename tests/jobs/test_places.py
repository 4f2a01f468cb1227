"""Room at workers: who gets it, and what becomes of it when workers are lost and come back."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from cellseg1_rt.errors import ConfigError
from cellseg1_rt.jobs.places import Place, Places


class Reviving:
    """Keeps what is to be called when a lost worker's fate is clear."""

    def __init__(self) -> None:
        self.waiting: list[tuple[str, Callable[[bool], None]]] = []

    def __call__(self, worker: str, then: Callable[[bool], None]) -> None:
        self.waiting.append((worker, then))


def places(workers: str = "abc", each: int = 2, **options):
    reviving = Reviving()
    return Places(list(workers), each, threading.Event(), reviving, **options), reviving


def workers_of(taken: list[Place]) -> list[str]:
    return [place.worker for place in taken]


def later(call: Callable[..., None], *arguments: object) -> None:
    threading.Timer(0.3, call, arguments).start()


def test_each_worker_has_one_image_before_any_has_two():
    found, _ = places()
    assert len(found) == 6
    assert workers_of([found.take() for _ in range(6)]) == ["a", "b", "c", "a", "b", "c"]


def test_a_place_is_waited_for():
    found, _ = places("a", 1)
    place = found.take()
    later(found.give_back, place)
    assert found.take() == place


def test_a_stop_ends_the_waiting_without_a_worker():
    stop = threading.Event()
    found = Places(["a"], 1, stop, Reviving())
    found.take()
    later(stop.set)
    assert found.take() is None


def test_a_lost_worker_has_no_room_until_it_is_back():
    found, reviving = places("ab", 2)
    first = [found.take() for _ in range(3)]
    assert workers_of(first) == ["a", "b", "a"]
    found.give_up(first[0])
    found.give_up(first[2])  # both images of one worker that was lost once
    ((worker, then),) = reviving.waiting
    assert worker == "a"
    assert found.take().worker == "b"
    later(then, True)
    assert workers_of([found.take() for _ in range(2)]) == ["a", "a"]


def test_alone_waits_for_a_worker_to_be_empty_and_keeps_others_away():
    found, _ = places("ab", 2)
    held = [found.take() for _ in range(3)]
    got: list[Place] = []
    thread = threading.Thread(target=lambda: got.append(found.take(alone=True)), daemon=True)
    thread.start()
    later(found.give_back, held[1])  # b has one, a has two
    thread.join(30)
    assert [(place.worker, place.alone) for place in got] == [("b", True)]
    found.give_back(held[0])
    assert found.take().worker == "a"  # though b has been given no second image
    found.give_back(held[2])
    assert found.take().worker == "a"
    later(found.give_back, got[0])
    assert found.take().worker == "b"


def test_a_worker_that_is_kept_free_gets_no_other_image_before():
    found, _ = places("a", 2)
    first = found.take()
    got: list[bool] = []

    def take(alone: bool) -> None:
        place = found.take(alone=alone)
        got.append(place.alone)
        found.give_back(place)

    threads = [threading.Thread(target=take, args=(alone,), daemon=True) for alone in (True, False)]
    threads[0].start()
    threads[0].join(0.3)
    threads[1].start()
    threads[1].join(0.5)
    assert got == []  # though there is room for a second image
    found.give_back(first)
    for thread in threads:
        thread.join(30)
    assert got == [True, False]


def test_two_that_want_to_be_alone_take_turns():
    found, _ = places("ab", 3)
    got: list[Place] = []
    done = threading.Event()

    def alone() -> None:
        got.append(place := found.take(alone=True))
        done.wait(30)
        found.give_back(place)

    threads = [threading.Thread(target=alone, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    threads[0].join(0.5)
    assert len(got) == 1
    done.set()
    for thread in threads:
        thread.join(30)
    assert len(got) == 2


def test_when_all_are_gone_for_good_the_job_ends():
    found, reviving = places("ab", 1)
    for place in [found.take() for _ in range(2)]:
        found.give_up(place)
    for _, then in reviving.waiting:
        then(False)
    with pytest.raises(ConfigError, match="no worker is left.*lost for good.*done is kept"):
        found.take()


def test_when_all_are_away_the_job_waits_for_a_while():
    found, reviving = places("ab", 1, patience_s=0.5)
    for place in [found.take() for _ in range(2)]:
        found.give_up(place)
    reviving.waiting[0][1](False)
    with pytest.raises(ConfigError, match="no worker is left.*none came back in [0-9]+ s"):
        found.take(alone=True)
    found, reviving = places("a", 1, patience_s=60.0)
    found.give_up(found.take())
    later(reviving.waiting[0][1], True)
    assert found.take(alone=True).worker == "a"
