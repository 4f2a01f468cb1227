"""Jobs that are killed, interrupted or run out of room, in real processes, and then go on."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import job_harness
import pytest
from job_harness import done_names, outputs_in, run, write_images
from PIL import Image

from cellseg1_rt.bundles import SAMPLES

HARNESS = Path(job_harness.__file__)


def start(inputs: Path, folder: Path, recipe: dict[str, Any]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, HARNESS, inputs, folder, json.dumps(recipe)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_at_every_flush_and_rename(workers, tmp_path):
    write_images(tmp_path / "in", 3)
    (tmp_path / "in" / "image1.png").rename(tmp_path / "in" / "b.png")
    process = start(tmp_path / "in", tmp_path, {"kill_at_each_call": workers})
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    report = json.loads(out)
    assert report["images"] == ["b", "image0", "image2"]
    # An image: two outputs of flush, rename, flush; the line; two renames and a flush.
    assert report["kills"] >= 3 * 10
    assert report["wrong"] == []


def wait_for_images(process: subprocess.Popen[str], count: int) -> None:
    assert process.stdout is not None
    for _ in range(count):
        assert process.stdout.readline() == "segmenting\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "term"])
def test_a_signal_finishes_what_is_in_flight(number, tmp_path):
    write_images(tmp_path / "in", 5)
    process = start(tmp_path / "in", tmp_path / "out", {"segment_s": 0.4})
    wait_for_images(process, 2)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert err.count("interrupted") == 1
    assert json.loads(out.splitlines()[-1]) == {"ended": "interrupted", "left": 3}
    assert done_names(tmp_path / "out") == ["image0", "image1"]
    assert json.loads((tmp_path / "out" / "job.json").read_text())["ended"] == "interrupted"
    summary = run(tmp_path / "in", tmp_path / "out")
    assert (summary.done, summary.before, summary.left) == (5, 2, 0)
    run(tmp_path / "in", tmp_path / "whole")
    assert outputs_in(tmp_path / "out") == outputs_in(tmp_path / "whole")


def test_a_second_signal_ends_at_once(tmp_path):
    write_images(tmp_path / "in", 3)
    process = start(tmp_path / "in", tmp_path / "out", {"segment_s": 60})
    wait_for_images(process, 1)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    assert "interrupted" in process.stderr.readline()
    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert time.monotonic() - started < 30
    assert process.returncode == 130
    assert run(tmp_path / "in", tmp_path / "out").done == 3
    assert not [name for name in os.listdir(tmp_path / "out") if name.startswith(".")]


COMMAND = (sys.executable, "-c", "from cellseg1_rt.cli.main import main; main()", "segment")


def start_segment(inputs: Path, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, inputs, "-o", folder, "--points", "3", "--format", "tif,csv,overlay"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def seconds_of_work(process: subprocess.Popen[str], folder: Path, limit_s: float = 1e9) -> float:
    """From the first line of the journal to the end of the process, or to its killing."""
    journal, started = folder / "journal.jsonl", None
    while process.poll() is None:
        if started is None and journal.exists() and journal.stat().st_size:
            started = time.monotonic()
        if started is not None and time.monotonic() - started >= limit_s:
            process.kill()
            process.wait()
        time.sleep(0.002)
    process.communicate()
    return time.monotonic() - started if started is not None else 0.0


@pytest.mark.parametrize("kills", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_the_command_killed_at_random_moments(kills, tmp_path):
    (tmp_path / "in").mkdir()
    for path in sorted((SAMPLES / "images").iterdir())[: 4 if kills == 1 else 8]:
        image = Image.open(path)
        image.resize((image.width // 4, image.height // 4)).save(tmp_path / "in" / path.name)
    process = start_segment(tmp_path / "in", tmp_path / "whole")
    work_s = seconds_of_work(process, tmp_path / "whole")
    assert process.returncode == 0
    whole, names = outputs_in(tmp_path / "whole"), done_names(tmp_path / "whole")
    assert len(names) == len(os.listdir(tmp_path / "in"))
    moments = random.Random(11)
    for _ in range(kills):
        killed = tmp_path / "killed"
        process = start_segment(tmp_path / "in", killed)
        seconds_of_work(process, killed, limit_s=moments.uniform(0.1, 0.9) * work_s)
        assert process.returncode in (-signal.SIGKILL, 0)  # 0 if it was quicker than the first
        process = start_segment(tmp_path / "in", killed)
        seconds_of_work(process, killed)
        assert process.returncode == 0
        assert outputs_in(killed) == whole
        assert done_names(killed) == names
        shutil.rmtree(killed)
