"""Where workers are put on a cluster, and what is said of an address; with a stand-in for ray."""

from __future__ import annotations

import socket
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from cellseg1_rt.errors import ConfigError, RuntimeUnavailableError
from cellseg1_rt.jobs import ray_cluster
from cellseg1_rt.jobs.ray_cluster import RESTARTS, about_workers, connect, start_workers
from cellseg1_rt.jobs.remote import About, ImageWorker, Plan, Told


class RayError(Exception):
    pass


class FakeRay:
    """Three nodes, one of them gone, and a note of each actor that is started."""

    __spec__ = object()
    exceptions = SimpleNamespace(RayError=RayError)

    def __init__(self, resources: list[dict[str, float]], answers: Any = ()) -> None:
        self._resources, self._answers = resources, answers
        self.started: list[tuple[str, dict[str, Any], int]] = []
        self.addresses: list[str] = []

    def init(self, address: str, **_: Any) -> None:
        self.addresses.append(address)
        if address == "auto":
            raise ConnectionError("Could not find any running Ray instance.\nMore of it.")

    def nodes(self) -> list[dict[str, Any]]:
        gone = {"Alive": False, "NodeID": "gone", "Resources": {"CPU": 64.0, "GPU": 8.0}}
        return [gone] + [
            {"Alive": True, "NodeID": f"node{i}", "Resources": {**each, "memory": 1e9}}
            for i, each in enumerate(self._resources)
        ]

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 3.0}

    def remote(self, worker_class: type) -> Any:
        def options(scheduling_strategy: str, max_concurrency: int, **options: Any) -> Any:
            assert options.pop("max_restarts") == RESTARTS

            def start(plan: Plan, threads: int) -> str:
                self.started.append((scheduling_strategy, options, threads))
                return "actor"

            return SimpleNamespace(remote=start)

        return SimpleNamespace(options=options)

    def get(self, calls: list[Any], timeout: float) -> Any:
        if isinstance(self._answers, Exception):
            raise self._answers
        return self._answers


CPUS = [{"CPU": 7.0}, {"CPU": 3.0, "GPU": 2.0}]
CARDS = [{"CPU": 16.0, "GPU": 2.0}, {"CPU": 4.0}, {"CPU": 5.0, "GPU": 1.0}]
CASES: dict[str, tuple[Any, ...]] = {
    "one a machine": (CPUS, {}, None, [("node0", 7, 7), ("node1", 3, 3)]),
    "two a machine": (CPUS, {}, 2, [("node0", 3, 3)] * 2 + [("node1", 1, 1)] * 2),
    "no more than cores": (CPUS, {}, 5, [("node0", 1, 1)] * 5 + [("node1", 1, 1)] * 3),
    "its threads": (CPUS, {"threads": 5}, 2, [("node0", 3, 2)] * 2 + [("node1", 1, 2)] * 2),
    "one a card": (CARDS, {"on_card": True}, None, [("node0", 0, 8)] * 2 + [("node2", 0, 5)]),
    "one card a machine": (CARDS, {"on_card": True}, 1, [("node0", 0, 16), ("node2", 0, 5)]),
}


@pytest.mark.parametrize("name", CASES)
def test_where_workers_are_started(name, monkeypatch):
    resources, options, workers, expected = CASES[name]
    monkeypatch.setattr(ray_cluster, "_on_node", lambda node: node)
    ray = FakeRay(resources)
    plan = Plan("none", {}, {}, **options)
    assert len(start_workers(ray, plan, workers, ImageWorker)) == len(expected)
    assert [(node, each["num_cpus"], threads) for node, each, threads in ray.started] == expected
    cards = {each.get("num_gpus", 0) for _, each, _ in ray.started}
    assert cards == ({1} if plan.on_card else {0})


def test_a_cluster_without_cards_is_named():
    plan = Plan("none", {}, {}, on_card=True)
    with pytest.raises(
        RuntimeUnavailableError, match="the cluster offers no GPU; got {'CPU': 3.0}"
    ):
        start_workers(FakeRay([{"CPU": 3.0}]), plan, None, ImageWorker)


def test_what_workers_loaded_or_why_not():
    workers = [SimpleNamespace(describe=SimpleNamespace(remote=lambda: None))] * 2
    abouts = [About("m1", "r", {}), About("m2", "r", {})]
    assert about_workers(FakeRay([], abouts), workers) == abouts
    told = Told("a graph is damaged", "x.onnx", None, None, "export it again")
    with pytest.raises(RuntimeUnavailableError, match="could not load the bundle: a graph is dama"):
        about_workers(FakeRay([], [abouts[0], told]), workers)
    trace = RayError("Traceback:\n  line 3\nModuleNotFoundError: No module named 'cellseg1_rt'\n\n")
    with pytest.raises(RuntimeUnavailableError, match="did not start; got ModuleNotFoundError"):
        about_workers(FakeRay([], trace), workers)


def closed_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def test_a_cluster_that_does_not_answer_is_named_at_once(monkeypatch):
    ray = FakeRay([])
    monkeypatch.setitem(sys.modules, "ray", ray)
    with pytest.raises(
        RuntimeUnavailableError, match="got auto: Could not find any running Ray in"
    ):
        connect("auto")
    address = f"127.0.0.1:{closed_port()}"
    with pytest.raises(
        RuntimeUnavailableError, match=f"got {address}: .*refused.*ray start --head"
    ):
        connect(address)
    assert ray.addresses == ["auto"]


@pytest.mark.parametrize("address", ["", "head", "local", "ray://head:10001", "head:port", ":6379"])
def test_what_is_no_address(address, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", FakeRay([]))
    with pytest.raises(ConfigError, match="not an address of a Ray cluster.*auto, or the host"):
        connect(address)


def test_one_that_answers_is_joined(monkeypatch):
    ray = FakeRay([])
    monkeypatch.setitem(sys.modules, "ray", ray)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert connect(address) is ray
    assert ray.addresses == [address]
