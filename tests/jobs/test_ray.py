"""Jobs on a Ray cluster: the results of one machine, whatever workers are lost on the way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import ray_harness
from job_harness import done_names, outputs_in, run, small_samples, write_images

from cellseg1_rt.extras import is_installed

pytestmark = pytest.mark.skipif(not is_installed("ray"), reason="ray is not installed")


def start(inputs: Path, folder: Path, **recipe: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, ray_harness.__file__, inputs, folder, json.dumps(recipe)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    report: dict[str, Any] = json.loads(out.removeprefix("one done\n"))  # and nothing of Ray's
    return report


def test_a_killed_worker_costs_its_images_in_flight_and_nothing_else(tmp_path):
    write_images(tmp_path / "in", 31)
    out = tmp_path / "out"
    report = finished(start(tmp_path / "in", out, kill_after=5, segment_s=0.05))
    assert (report["ended"], report["done"], report["failures"]) == ("finished", 31, [])
    assert len(report["told"]) == 2
    assert 1 <= report["again"] <= 3
    run(tmp_path / "in", tmp_path / "whole")
    assert outputs_in(out) == outputs_in(tmp_path / "whole")
    assert done_names(out) == done_names(tmp_path / "whole")
    assert not [name for name in os.listdir(out) if name.startswith(".")]


@pytest.mark.slow
def test_the_packaged_model_on_two_nodes_with_a_worker_killed(tmp_path):
    """Equal to one node bit for bit, and so is a job that goes on from a cluster on one machine."""
    images = small_samples(tmp_path / "in", 7)
    report = finished(start(images, tmp_path / "out", bundle="tiny", kill_after=2))
    assert (report["done"], report["failures"]) == (7, [])
    assert all("with 1 threads: runtime onnxruntime, fp32" in told for told in report["told"])
    assert report["again"] <= 3
    command = (sys.executable, "-c", "from cellseg1_rt.cli.main import main; main()", "segment")
    options = ("--points", "4", "--threads", "1")
    for folder, message in {"whole": "7 of 7 images done,", "out": "done (7 before)"}.items():
        done = subprocess.run(
            [*command, images, "-o", tmp_path / folder, *options], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert message in done.stdout
    assert outputs_in(tmp_path / "out") == outputs_in(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "term"])
def test_a_signal_finishes_what_is_at_workers(number, tmp_path):
    write_images(tmp_path / "in", 31)
    process = start(tmp_path / "in", tmp_path / "out", segment_s=0.3)
    assert process.stdout is not None
    assert process.stdout.readline() == "one done\n"
    process.send_signal(number)
    report = finished(process)
    assert report["ended"] == "interrupted"
    assert report["done"] + report["left"] == 31
    assert 1 <= report["done"] <= 20
    assert report["again"] == 0
    assert len(done_names(tmp_path / "out")) == report["done"]
    run(tmp_path / "in", tmp_path / "out")
    run(tmp_path / "in", tmp_path / "whole")
    assert outputs_in(tmp_path / "out") == outputs_in(tmp_path / "whole")


@pytest.mark.slow
def test_an_image_that_kills_every_worker_fails_and_the_others_are_done(tmp_path):
    (poison,) = write_images(tmp_path / "in", 1)
    poison.rename(tmp_path / "in" / "poison.png")
    write_images(tmp_path / "in", 5)
    report = finished(start(tmp_path / "in", tmp_path / "out"))
    (reason,) = report["failures"]
    assert "poison.png: cannot be segmented: 3 workers were lost while they had it" in reason
    assert (report["done"], report["left"]) == (5, 0)
    assert done_names(tmp_path / "out") == [f"image{i}" for i in range(5)]


@pytest.mark.slow
def test_a_machine_that_is_lost_costs_its_images_in_flight(tmp_path):
    write_images(tmp_path / "in", 31)
    report = finished(start(tmp_path / "in", tmp_path / "out", lose_after=5, segment_s=0.3))
    assert (report["done"], report["failures"]) == (31, [])
    assert 1 <= report["again"] <= 3
    run(tmp_path / "in", tmp_path / "whole")
    assert outputs_in(tmp_path / "out") == outputs_in(tmp_path / "whole")
    assert done_names(tmp_path / "out") == done_names(tmp_path / "whole")


@pytest.mark.slow
def test_workers_that_do_not_see_the_folder_are_found_before_the_first_image(tmp_path):
    write_images(tmp_path / "in", 3)
    process = start(tmp_path / "in", tmp_path / "out", blind=True)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "a machine of the cluster does not see the job's folder; got no such folder" in err
    assert not (tmp_path / "begun.txt").exists()
