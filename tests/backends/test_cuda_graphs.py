"""Calls that become graphs: when, which, and what is left as it is. The driver is stood in for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cellseg1_rt.backends import cuda_graphs
from cellseg1_rt.backends.cuda_graphs import CapturedRunner, DriverCapture
from cellseg1_rt.errors import RuntimeUnavailableError


class Tensor:
    """A few numbers that say where they are, as a device array does."""

    def __init__(self, *values: float) -> None:
        self.values = np.array(values)
        self.shape = self.values.shape

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return self.values.__array_interface__


class Doubling:
    """A runner whose work is put on the stream: a list of what is yet to be done."""

    def __init__(self) -> None:
        self.calls = 0

    def run(self, tensors, stream) -> None:
        self.calls += 1
        source, target = tensors["source"].values, tensors["target"].values
        stream.append(lambda: np.multiply(source, 2, out=target))

    def keep(self) -> None:
        self.calls = -1


class Recorded:
    """What the driver does with a stream that is a list."""

    def __init__(self, refuses: bool = False) -> None:
        self.launched, self._refuses = 0, refuses

    def begin(self, stream) -> None:
        self._before = len(stream)

    def end(self, stream) -> Any:
        work = stream[self._before :]
        del stream[self._before :]  # recorded, and not run
        if self._refuses:
            raise RuntimeUnavailableError("the NVIDIA driver refuses a call", where="end")
        return work

    def launch(self, graph, stream) -> None:
        self.launched += 1
        stream.extend(graph)


def finish(stream: list) -> None:
    while stream:
        stream.pop(0)()


@pytest.fixture
def runner() -> Doubling:
    return Doubling()


def test_the_third_call_is_a_launch_of_the_second(runner):
    capture, stream = Recorded(), []
    captured = CapturedRunner(runner, capture)
    source, target = Tensor(1, 2, 3), Tensor(0, 0, 0)
    for number in range(5):
        source.values[:] = number, 7, 11
        captured.run({"source": source, "target": target}, stream)
        finish(stream)
        assert target.values.tolist() == [2 * number, 14, 22]
    # Twice as it is, and once to be recorded.
    assert (runner.calls, capture.launched) == (3, 3)


def test_another_address_or_shape_is_another_call(runner):
    capture, stream = Recorded(), []
    captured = CapturedRunner(runner, capture)
    pairs = [(Tensor(1, 2), Tensor(0, 0)), (Tensor(3, 5), Tensor(0, 0)), (Tensor(7), Tensor(0))]
    for _ in range(3):
        for source, target in pairs:
            target.values[:] = 0
            captured.run({"target": target, "source": source}, stream)
            finish(stream)
            np.testing.assert_array_equal(target.values, 2 * source.values)
    assert (runner.calls, capture.launched) == (9, 3)


def test_a_call_that_cannot_be_recorded_is_told_of_and_runs(runner):
    stream = []
    captured = CapturedRunner(runner, Recorded(refuses=True))
    tensors = {"source": Tensor(13), "target": Tensor(0)}
    captured.run(tensors, stream)
    with pytest.warns(UserWarning, match="launched one by one, and not as graphs: end: the NVIDIA"):
        captured.run(tensors, stream)
    captured.run(tensors, stream)  # not tried again
    assert len(stream) == 3
    finish(stream)
    assert tensors["target"].values == [26]
    assert runner.calls == 4


def test_graphs_are_no_more_than_there_is_room_for(runner, monkeypatch):
    monkeypatch.setattr(cuda_graphs, "MOST_GRAPHS", 2)
    capture, stream = Recorded(), []
    captured = CapturedRunner(runner, capture)
    calls = [{"source": Tensor(n), "target": Tensor(0)} for n in range(3)]
    for _ in range(4):
        for tensors in calls:
            captured.run(tensors, stream)
    assert capture.launched == 4
    captured.keep()
    assert runner.calls == -1


class Driver:
    """Notes what is asked of CUDA's driver; handles are numbers, and one call can fail."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.fails = ""

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> int:
            plain = [getattr(argument, "value", argument) for argument in arguments]
            if name == "cuStreamEndCapture":
                plain[1]._obj.value = 31
            if name == "cuGraphInstantiateWithFlags":
                plain[0]._obj.value = 2 * plain[1]
            self.asked.append((name, *(v for v in plain if isinstance(v, int))))
            return 900 if name == self.fails else 0

        return call


@pytest.fixture
def driver(monkeypatch) -> Driver:
    made = Driver()
    monkeypatch.setattr(cuda_graphs.ctypes, "CDLL", lambda name: made)
    return made


def test_the_driver_records_instantiates_and_launches(driver):
    capture, stream = DriverCapture(), np.int64(7)
    capture.begin(stream)
    graph = capture.end(stream)
    capture.launch(graph, stream)
    assert driver.asked == [
        ("cuStreamBeginCapture_v2", 7, 1),
        ("cuStreamEndCapture", 7),
        ("cuGraphInstantiateWithFlags", 31, 0),
        ("cuGraphLaunch", 62, 7),
    ]


@pytest.mark.parametrize("call", ["cuStreamEndCapture", "cuGraphInstantiateWithFlags"])
def test_what_the_driver_refuses_is_named(driver, call: str):
    driver.fails = call
    with pytest.raises(RuntimeUnavailableError, match=f"{call}: the NVIDIA driver refuses .*900"):
        DriverCapture().end(np.int64(7))
