"""A device that is lost: what its images become, who goes on, and when the job ends."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from job_harness import SETTINGS, done_names, outputs_in, run, segment_bright, write_images

from cellseg1_rt.errors import ConfigError, InputError, VerificationError
from cellseg1_rt.jobs.inputs import find_inputs, plan_tasks
from cellseg1_rt.jobs.job import Job, run_job
from cellseg1_rt.jobs.watch import FAILURES_IN_A_ROW, DeviceLostError, Watched

IMAGE = (31, 37, 3)


class Failing:
    """A device that raises what it is told to, image by image; the test picture has its own."""

    def __init__(self, errors: list[Exception | None], at_test: Exception | None = None) -> None:
        self.errors, self.at_test, self.tests = errors, at_test, 0

    def __call__(self, rgb: np.ndarray):
        if rgb.shape != IMAGE:
            self.tests += 1
            error = self.at_test
        else:
            error = self.errors.pop(0) if self.errors else None
        if error is not None:
            raise error
        return segment_bright(rgb)


LOST = RuntimeError("CUDA error 719")
NAN = VerificationError("values are not finite")
CASES = {
    "never fails": ([None] * 7, None, 0),
    "two in a row": ([LOST, LOST, None, LOST, LOST, None], LOST, 0),
    "three in a row, and good pictures": ([LOST, NAN, LOST], None, 1),
    "seven in a row, and good pictures": ([LOST] * 7, None, 2),
    "its images' own errors": ([InputError("cut off")] * 7, LOST, 0),
    "no memory for its images": ([MemoryError()] * 7, LOST, 0),
    "three with good ones' errors between": ([LOST, InputError("x"), LOST, None], LOST, 0),
}


@pytest.mark.parametrize("case", CASES)
def test_a_device_that_passes_the_test_goes_on(case):
    errors, at_test, tests = CASES[case]
    device = Failing(list(errors), at_test)
    watched = Watched(device, "device 1 of 1")
    picture = np.zeros(IMAGE, np.uint8)
    for error in errors:
        if error is None:
            watched(picture)
        else:
            with pytest.raises(type(error)) as caught:
                watched(picture)
            assert caught.value is error
    assert device.tests == tests
    assert watched(picture).labels.max() == 0


def test_one_that_fails_the_test_is_lost_with_its_reason():
    watched = Watched(Failing([LOST] * 3, at_test=LOST), "device 2 of 3")
    for _ in range(FAILURES_IN_A_ROW - 1):
        with pytest.raises(RuntimeError, match="719"):
            watched(np.zeros(IMAGE, np.uint8))
    with pytest.raises(DeviceLostError, match="device 2 of 3: CUDA error 719"):
        watched(np.zeros(IMAGE, np.uint8))


@pytest.fixture
def images(tmp_path) -> Path:
    write_images(tmp_path / "in", 17)
    return tmp_path / "in"


def run_on(devices, images: Path, folder: Path):
    tasks = plan_tasks(find_inputs([images]), folder, ("tif", "csv"))
    return run_job(
        Job(tasks, folder, SETTINGS),
        devices,
        stop=threading.Event(),
        report=lambda outcome, tally: None,
    )


def slow(rgb: np.ndarray):
    time.sleep(0.02)  # so that the other device gets images too
    return segment_bright(rgb)


def test_others_finish_the_job_and_the_next_run_does_the_rest(images, tmp_path):
    lost = Failing([None, None, *[LOST] * 99], at_test=LOST)
    summary = run_on([lost, slow], images, tmp_path / "out")
    assert (summary.ended, summary.failed, summary.left) == ("finished", FAILURES_IN_A_ROW, 0)
    assert summary.done == 17 - FAILURES_IN_A_ROW
    reasons = [each.error for each in summary.failures]
    assert all("CUDA error 719" in reason for reason in reasons)
    assert sum("device 1 of 2 is given up" in reason for reason in reasons) == 1
    assert lost.tests == 1
    assert run(images, tmp_path / "out").done == 17
    run(images, tmp_path / "whole")
    assert outputs_in(tmp_path / "out") == outputs_in(tmp_path / "whole")


@pytest.mark.parametrize("count", [1, 2])
def test_without_another_the_job_ends_and_keeps_what_is_done(count, images, tmp_path):
    out = tmp_path / "out"
    devices = [Failing([None, None, *[LOST] * 99], at_test=LOST) for _ in range(count)]
    with pytest.raises(ConfigError, match="no device is left that works.*719.*is done is kept"):
        run_on(devices, images, out)
    summary = json.loads((out / "job.json").read_text())
    assert summary["ended"] == "stopped"
    assert (summary["done"], summary["failed"]) == (2 * count, FAILURES_IN_A_ROW * count)
    assert summary["left"] == 17 - (2 + FAILURES_IN_A_ROW) * count
    assert len(done_names(out)) == 2 * count
    assert run(images, out).before == 2 * count
    run(images, tmp_path / "whole")
    assert outputs_in(out) == outputs_in(tmp_path / "whole")
