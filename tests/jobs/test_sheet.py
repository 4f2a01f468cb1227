"""The pictures of a job: which images, from memory and from files."""

from __future__ import annotations

import io
from base64 import b64decode
from pathlib import Path

import numpy as np
import pytest
from job_harness import run, write_images
from PIL import Image

from cellseg1_rt.jobs.inputs import find_inputs, plan_tasks
from cellseg1_rt.jobs.outcomes import Outcome
from cellseg1_rt.jobs.sheet import PICTURES, Sheet


def pixels_of(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(b64decode(uri.partition(",")[2]))))


def before(task) -> Outcome:
    return Outcome(task, None, 3, None, None, {})


@pytest.mark.parametrize("count", [0, 1, 5, 12, 101])
def test_pictures_are_spread_over_the_job(count, tmp_path):
    tasks = []
    if count:
        write_images(tmp_path / "in", count)
        run(tmp_path / "in", tmp_path / "out", formats=("png",))
        tasks = plan_tasks(find_inputs([tmp_path / "in"]), tmp_path / "out", ["png"])
    sheet = Sheet(tasks, None)
    for task in reversed(tasks):
        sheet.add(before(task))
    names = [picture.name for picture in sheet.pictures()]
    assert len(names) == min(PICTURES, count)
    assert names == [task.name for task in tasks if task.name in names]
    if count > 1:
        assert (names[0], names[-1]) == (tasks[0].name, tasks[-1].name)


def test_an_earlier_run_is_drawn_as_this_one_would_be(tmp_path):
    write_images(tmp_path / "in", 3)
    run(tmp_path / "in", tmp_path / "out")
    first = (tmp_path / "out" / "job.html").read_text()
    run(tmp_path / "in", tmp_path / "out")
    again = (tmp_path / "out" / "job.html").read_text()
    images = [line.count("data:image/jpeg") for line in (first, again)]
    assert images == [3, 3]
    assert (
        first.partition("<figure>")[2].partition("<h2>")[0]
        == (again.partition("<figure>")[2].partition("<h2>")[0])
    )


def test_what_cannot_be_drawn_is_left_out(tmp_path):
    write_images(tmp_path / "in", 2)
    tasks = plan_tasks(find_inputs([tmp_path / "in"]), tmp_path / "none", ["tif"])
    only_tables = plan_tasks(find_inputs([tmp_path / "in"]), tmp_path / "none", ["csv"])
    for planned in (tasks, only_tables):
        sheet = Sheet(planned, None)
        sheet.add(before(planned[0]))
        assert sheet.pictures() == []


def test_a_large_image_becomes_a_small_picture(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    pixels = np.zeros((401, 1013), np.uint8)
    pixels[101:203, 307:601] = 255
    Image.fromarray(pixels).save(Path(folder) / "a.png")
    run(folder, tmp_path / "out", formats=("tif",))
    (task,) = plan_tasks(find_inputs([folder]), tmp_path / "out", ["tif"])
    sheet = Sheet([task], None)
    sheet.add(before(task))
    (picture,) = sheet.pictures()
    drawn = pixels_of(picture.data_uri)
    assert drawn.shape == (picture.height, picture.width, 3) == (127, 320, 3)
    # Bright and tinted where the cell is, dark where it is not.
    assert drawn[48, 140].min() > 150
    assert drawn[10, 10].max() < 60
