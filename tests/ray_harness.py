"""Jobs on a Ray cluster of two machines, which are two nodes on this one, in a process of its own.

``python ray_harness.py INPUTS FOLDER RECIPE`` runs one job and prints what came of it. A recipe may
name ``bundle`` (else the device is one that needs no model), ``kill_after`` images a worker,
``lose_after`` images a whole node, how long an image takes, ``segment_s``, and ``blind`` workers
that do not see the job's folder. An image whose name begins with ``poison`` kills its worker.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from job_harness import SETTINGS, segment_bright

from cellseg1_rt.jobs.inputs import find_inputs, plan_tasks
from cellseg1_rt.jobs.job import Job, run_job
from cellseg1_rt.jobs.ray_workers import RayDevices
from cellseg1_rt.jobs.remote import About, ImageWorker, Plan
from cellseg1_rt.jobs.signals import stop_on_signals

FORMATS = ("tif", "csv")
MEMORY_BYTES = 80 * 2**20
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_enable_worker_prestart": "0",
    "RAY_memory_monitor_refresh_ms": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_worker_register_timeout_seconds": "120",  # on a machine that has much else to do
    "OMP_NUM_THREADS": "1",
}


class Worker(ImageWorker):
    """Tells its process, and writes down each image that it begins."""

    def _load(self, plan: Plan, threads: int) -> Any:
        if plan.bundle == "none":
            about, segmenter = About("here", "none", SETTINGS), segment_bright
        else:
            about, segmenter = super()._load(plan, threads)
        return replace(about, machine=f"{os.getpid()} with {threads} threads"), segmenter

    def sees(self, file: Path) -> str | None:
        return None if os.environ["BLIND"] == "True" else super().sees(file)

    def process(self, task: Any, hidden: Path) -> Any:
        with (hidden.parent.parent / "begun.txt").open("a") as log:
            log.write(f"{task.name}\n")
        if task.name.startswith("poison"):
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(float(os.environ["SEGMENT_S"]))
        return super().process(task, hidden)


def run_on_cluster(inputs: Path, folder: Path, recipe: dict[str, Any], cluster: Any) -> Any:
    options = {"points_per_side": 4} if "bundle" in recipe else {}
    job = {"formats": FORMATS, "resize": None, "tile": "auto"}
    plan = Plan(recipe.get("bundle", "none"), options, job)

    def report(outcome: Any, tally: Any) -> None:
        if tally.done == 1:
            os.write(1, b"one done\n")
        if outcome.error is None and tally.done == recipe.get("kill_after"):
            os.kill(int(devices.told[0].split()[0]), signal.SIGKILL)
        if outcome.error is None and tally.done == recipe.get("lose_after"):
            (other,) = cluster.worker_nodes
            cluster.remove_node(other, allow_graceful=False)

    tasks = plan_tasks(find_inputs([inputs]), folder, FORMATS)
    with (
        RayDevices(cluster.address, plan, worker_class=Worker) as devices,
        stop_on_signals() as stop,
    ):
        job = Job(tasks, folder, devices.settings)
        summary = run_job(job, devices, stop=stop, report=report)
    begun = Counter((folder.parent / "begun.txt").read_text().split())
    return {
        "ended": summary.ended,
        "done": summary.done,
        "before": summary.before,
        "left": summary.left,
        "failures": [each.error for each in summary.failures],
        "told": devices.told,
        "again": sum(begun.values()) - len(begun),
    }


def main() -> None:
    inputs, folder, recipe = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
    own = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # short: it holds sockets
    os.environ.update(ENVIRONMENT, RAY_TMPDIR=str(own))
    os.environ["SEGMENT_S"] = str(recipe.get("segment_s", 0))
    os.environ["BLIND"] = str(recipe.get("blind", False))
    (own / "ray").mkdir()

    from ray.cluster_utils import Cluster

    size = {"num_cpus": 1, "object_store_memory": MEMORY_BYTES}
    cluster = Cluster()
    try:
        cluster.add_node(**size, include_dashboard=False)
        cluster.add_node(**size)
        print(json.dumps(run_on_cluster(inputs, folder, recipe, cluster)))
    finally:
        cluster.shutdown()
        shutil.rmtree(own, ignore_errors=True)


if __name__ == "__main__":
    main()
