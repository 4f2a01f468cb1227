"""A Ray cluster: connect to it, start a worker a card or a machine, and ask them all.

The only module that imports ray (extra ``ray``).
"""

from __future__ import annotations

import socket
from typing import Any

from cellseg1_rt.errors import ConfigError, RuntimeUnavailableError
from cellseg1_rt.extras import require
from cellseg1_rt.jobs.remote import About, ImageWorker, Plan, Told

__all__ = [
    "IN_FLIGHT",
    "RESTARTS",
    "about_workers",
    "answers_of",
    "connect",
    "lines_of_error",
    "start_workers",
]

IN_FLIGHT = 3
"""Images at a worker at a time: one that is read, one at the device, one that is written."""

RESTARTS = 10
"""How often Ray starts a worker again that died."""

START_S = 600.0
"""How long a worker may take to start and to load the bundle."""


def connect(address: str) -> Any:
    """Join a cluster as the driver; gives ray's module.

    Parameters
    ----------
    address : ``auto``, or ``HOST:PORT`` of the head.

    Raises
    ------
    MissingExtraError : if ray is not installed.
    RuntimeUnavailableError, ConfigError : if nobody answers, or that is no address.
    """
    require("ray", extra="ray", needed_for="--ray")
    import ray

    try:
        if address != "auto":
            _knock(address)
        ray.init(address=address, log_to_driver=False, configure_logging=False)
    except (ConnectionError, OSError, ValueError, RuntimeError) as error:
        raise RuntimeUnavailableError(
            "no Ray cluster answers there",
            where="--ray",
            got=f"{address}: {lines_of_error(error)[0].rstrip('.')}",
            fix="start one: ray start --head here, and ray start --address=HOST:6379 elsewhere",
        ) from error
    return ray


def _knock(address: str) -> None:
    """Raise OSError at once where nobody listens: Ray itself tries for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        raise ConfigError(
            "not an address of a Ray cluster",
            where="--ray",
            got=address,
            expected="auto, or the host and port of its head, as 10.0.0.5:6379",
        )
    socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def start_workers(
    ray: Any, plan: Plan, workers: int | None, worker_class: type[ImageWorker]
) -> list[Any]:
    """The actors, not yet loaded, of every machine in turn.

    Parameters
    ----------
    workers : on each machine; None is one a card, or one on its CPU.
    worker_class : what they are.

    Raises
    ------
    RuntimeUnavailableError : if the cluster has no cards, or no CPUs.
    """
    kind, actors = "GPU" if plan.on_card else "CPU", []
    actor_class = ray.remote(worker_class)
    for node in (node for node in ray.nodes() if node["Alive"]):
        has = int(node["Resources"].get(kind, 0))
        count = min(has, workers or (has if plan.on_card else 1))
        share = {"num_gpus": 1, "num_cpus": 0} if plan.on_card else {}
        cores = int(node["Resources"].get("CPU", 0))
        threads = max(1, (plan.threads or cores) // max(1, count))
        for _ in range(count):
            options = {
                **(share or {"num_cpus": cores // count}),
                "max_restarts": RESTARTS,
                "max_concurrency": IN_FLIGHT + 1,  # and one who asks how it is
                "scheduling_strategy": _on_node(node["NodeID"]),
            }
            actors.append(actor_class.options(**options).remote(plan, threads))
    if not actors:
        raise RuntimeUnavailableError(
            f"the cluster offers no {kind}", where="--ray", got=ray.cluster_resources()
        )
    return actors


def _on_node(node: str) -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # Soft: where that machine is gone for good, a worker is started again on another one.
    return NodeAffinitySchedulingStrategy(node_id=node, soft=True)


def answers_of(ray: Any, calls: list[Any]) -> list[Any]:
    """What workers answer to their first calls.

    Raises
    ------
    RuntimeUnavailableError : if one did not start, or not in time: others may use the cluster.
    """
    try:
        return list(ray.get(calls, timeout=START_S))
    except ray.exceptions.RayError as error:
        raise RuntimeUnavailableError(
            "a worker did not start",
            where="--ray",
            got=lines_of_error(error)[-1],  # of a trace, what went wrong
            fix="see `ray status`; the same cellseg1-rt must be installed on every machine",
        ) from error


def about_workers(ray: Any, workers: list[Any]) -> list[About]:
    """What each worker has loaded.

    Raises
    ------
    RuntimeUnavailableError : if one did not start, or could not load the bundle; it says why.
    """
    return [_loaded(answer) for answer in answers_of(ray, [w.describe.remote() for w in workers])]


def _loaded(answer: About | Told) -> About:
    if isinstance(answer, About):
        return answer
    raise RuntimeUnavailableError(
        f"a worker could not load the bundle: {answer.what}",
        where=answer.where,
        got=answer.got,
        expected=answer.expected,
        fix=answer.fix,
    )


def lines_of_error(error: BaseException) -> list[str]:
    """The lines of an error's text, at least one."""
    lines = [line.strip() for line in str(error).splitlines()]
    return [line for line in lines if line] or [type(error).__name__]
