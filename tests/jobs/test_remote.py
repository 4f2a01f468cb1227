"""A worker as a process of its own sees it, called here without one; and ``--ray`` without ray."""

from __future__ import annotations

import errno
import json
import pickle
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from job_harness import SETTINGS, outputs_in, run, segment_bright, write_images

from cellseg1_rt import extras
from cellseg1_rt.errors import ConfigError, MissingExtraError
from cellseg1_rt.jobs import opened
from cellseg1_rt.jobs.inputs import find_inputs, plan_tasks
from cellseg1_rt.jobs.job import Job, run_job
from cellseg1_rt.jobs.opened import open_devices
from cellseg1_rt.jobs.outcomes import Outcome
from cellseg1_rt.jobs.remote import About, ImageWorker, Plan, Told, require_alike
from cellseg1_rt.jobs.watch import FAILURES_IN_A_ROW

PLAN = Plan("none", {}, {"formats": ("tif", "csv"), "resize": None})


class BrightWorker(ImageWorker):
    """Needs no model; ``device`` may be replaced."""

    device = staticmethod(segment_bright)

    def _load(self, plan: Plan, threads: int):
        return About("here", "none", SETTINGS), self.device


def tasks_of(images: Path, folder: Path):
    return plan_tasks(find_inputs([images]), folder, ("tif", "csv"))


class OneWorker:
    """What stands in for a cluster: one worker, called at once."""

    def __init__(self, worker: ImageWorker) -> None:
        self.worker = worker

    def __len__(self) -> int:
        return 1

    def run_tasks(self, tasks, store, *, workers, stop):
        hidden = store.place(Path("x")).parent
        for task in tasks:
            work = pickle.loads(pickle.dumps(self.worker.process(task, hidden)))
            error = None if work.error is None else work.error.error()
            outcome = Outcome(task, None, work.cells, error, work.file, work.seconds)
            if error is None:
                store.adopt(outcome, hidden / work.folder)
            else:
                store.fail(outcome)
            yield outcome


def test_what_a_worker_makes_is_what_a_thread_makes(tmp_path):
    write_images(tmp_path / "in", 5)
    (tmp_path / "in" / "image3.png").write_bytes(b"damaged")
    out = tmp_path / "out"
    summary = run_job(
        Job(tasks_of(tmp_path / "in", out), out, SETTINGS),
        OneWorker(BrightWorker(PLAN, 1)),
        stop=threading.Event(),
        report=lambda outcome, tally: None,
    )
    assert (summary.done, summary.before, summary.failed) == (4, 0, 1)
    whole = run(tmp_path / "in", tmp_path / "whole")
    assert outputs_in(out) == outputs_in(tmp_path / "whole")
    assert summary.failures == whole.failures
    assert summary.cells == whole.cells
    # The sheet's pictures are drawn from the label maps.
    assert (out / "job.html").read_text().count("<img ") == 4


@pytest.fixture
def task(tmp_path):
    write_images(tmp_path / "in", 1)
    (tmp_path / "out" / "hidden").mkdir(parents=True)
    (task,) = tasks_of(tmp_path / "in", tmp_path / "out")
    return task


def test_two_workers_write_into_two_folders(task, tmp_path):
    hidden = tmp_path / "out" / "hidden"
    works = [BrightWorker(PLAN, 1).process(task, hidden) for _ in range(2)]
    first, second = (hidden / work.folder for work in works)
    assert first != second
    assert outputs_in(first) == outputs_in(second)
    assert len(outputs_in(first)) == 2


def test_a_worker_that_does_not_see_the_folder_leaves_the_image_to_others(task, tmp_path):
    work = BrightWorker(PLAN, 1).process(task, tmp_path / "nowhere")
    assert work.is_lost
    assert str(work.error.error()).endswith("nowhere: this machine does not see the job's folder")
    assert not (tmp_path / "nowhere").exists()
    assert BrightWorker(PLAN, 1).sees(tmp_path / "nowhere" / "x") is None


def test_a_full_disk_is_told_as_the_jobs_end(task, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    work = BrightWorker(PLAN, 1).process(task, tmp_path / "out" / "hidden")
    assert work.ends_job
    assert "No space left on device" in str(work.error.error())


def test_a_is_lost_is_told(task, tmp_path):
    def broken(rgb: np.ndarray):
        raise RuntimeError("CUDA error 719")

    worker = BrightWorker.__new__(BrightWorker)
    worker.device = broken
    worker.__init__(PLAN, 1)
    works = [worker.process(task, tmp_path / "out" / "hidden") for _ in range(FAILURES_IN_A_ROW)]
    assert [work.is_lost for work in works] == [False] * (FAILURES_IN_A_ROW - 1) + [True]
    assert "the device on here is given up" in str(works[-1].error.error())
    assert "CUDA error 719" in str(works[-1].error.error())


def test_why_a_bundle_was_not_loaded_is_told_when_asked():
    class Absent(ImageWorker):
        def _load(self, plan: Plan, threads: int):
            raise MissingExtraError("onnxruntime", "cpu", "the runtime 'onnxruntime'")

    told = pickle.loads(pickle.dumps(Absent(PLAN, 1).describe()))
    assert isinstance(told, Told)
    expected = MissingExtraError("onnxruntime", "cpu", "the runtime 'onnxruntime'")
    assert str(told.error()) == str(expected)


def test_a_worker_with_a_card_does_not_run_on_the_cpu():
    options = {"runtime": "onnxruntime", "points_per_side": 3}
    plan = replace(PLAN, bundle="tiny", options=options, on_card=True)
    told = ImageWorker(plan, 1).describe()
    assert isinstance(told, Told)
    assert "a worker with a card would run on the CPU; got onnxruntime" in str(told.error())


def test_workers_that_differ_are_refused_by_name():
    one = About("m1", "r", {"score": 0.8, "onnxruntime": "1.23"})
    assert require_alike([one, replace(one, machine="m2")]) == one.settings
    other = About("m3", "r", {"score": 0.8, "onnxruntime": "1.24", "more": 1})
    with pytest.raises(ConfigError) as caught:
        require_alike([one, other])
    assert str(caught.value).startswith("m3: two machines would not give the same results; got ")
    assert "got onnxruntime 1.24, more 1; expected onnxruntime 1.23, more None" in str(caught.value)


def test_without_ray_its_install_line_is_said_and_nothing_made(
    run_command, sample, tmp_path, monkeypatch
):
    real = extras.find_spec
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "ray" else real(name))
    done = run_command("segment", sample, "-o", tmp_path / "out", "--ray", "auto")
    assert done.code == 2
    assert "--ray needs the package 'ray'" in done.err
    assert "pip install 'cellseg1-rt[ray]'" in done.err
    assert not (tmp_path / "out").exists()
    assert "ray" not in sys.modules


def test_cards_cannot_be_named_on_a_cluster():
    plan = replace(PLAN, bundle="tiny")
    with pytest.raises(ConfigError, match="on a cluster Ray gives out the cards; got 0,1"):
        open_devices(plan, "0,1", "auto").__enter__()


def test_devices_here_are_told(monkeypatch):
    plan = Plan("tiny", {"points_per_side": 3}, {"formats": ("tif",), "resize": None}, threads=2)
    with open_devices(plan, "2") as found:
        assert found.told[0].startswith("runtime onnxruntime, fp32")
        assert found.told[1] == "2 workers"
        assert len(found.devices) == 2
        assert json.dumps(found.settings)
    with open_devices(plan) as found:
        assert len(found.told) == len(found.devices) == 1
    assert opened.wants_card("tensorrt", Path("x"), None)
