"""Stacks whose slices a job segments, linked."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import tifffile
from job_harness import SETTINGS, segment_bright

from cellseg1_rt.errors import ConfigError
from cellseg1_rt.formats import read_labels
from cellseg1_rt.jobs.inputs import find_inputs, plan_tasks
from cellseg1_rt.jobs.job import Job, run_job
from cellseg1_rt.jobs.link_z import require_linkable, stacks_of_tasks
from cellseg1_rt.jobs.stacks import split_stacks
from cellseg1_rt.runtime.link import SliceLinker

SIZE = {"PhysicalSizeX": 0.25, "PhysicalSizeY": 0.5}


def series(times: int, slices: int, shape=(41, 53)) -> np.ndarray:
    """Squares that drift from slice to slice."""
    pixels = np.random.default_rng(5).integers(0, 60, (times, slices, *shape)).astype(np.uint8)
    for t in range(times):
        for z in range(slices):
            for cell, (y, x) in enumerate([(5, 7), (20, 9), (28, 33)]):
                if (z + t + cell) % 4:
                    pixels[t, z, y + z : y + z + 6, x - t : x - t + 8] = 255
    return pixels


def tasks_of(folder, out, formats=("tif",)):
    return plan_tasks(split_stacks(find_inputs([folder]), print), out, formats)


def run(tasks, out, device=segment_bright):
    job = Job(tasks, out, SETTINGS, workers=1, link_z=True)
    return run_job(job, [device], stop=threading.Event(), report=lambda outcome, tally: None)


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    tifffile.imwrite(
        folder / "film.ome.tif", series(2, 5), ome=True, metadata={"axes": "TZYX", **SIZE}
    )
    tifffile.imwrite(folder / "plane.tif", series(1, 1)[0, 0])
    return folder


def test_each_point_in_time_is_a_stack(images, tmp_path):
    out = tmp_path / "out"
    summary = run(tasks_of(images, out), out)
    assert not summary.failures
    assert summary.done == 11
    linked = sorted(path.name for path in out.glob("*_linked.ome.tif"))
    assert linked == ["film.ome_t000_linked.ome.tif", "film.ome_t001_linked.ome.tif"]
    for name in linked:
        linker = SliceLinker()
        start = name.removesuffix("_linked.ome.tif")
        expected = [linker.add(read_labels(out / f"{start}_z{z:03}_labels.tif")) for z in range(5)]
        with tifffile.TiffFile(out / name) as file:
            assert file.series[0].axes == "ZYX"
            np.testing.assert_array_equal(file.asarray(), expected)
            assert 'PhysicalSizeY="0.5"' in file.ome_metadata
        assert linker.cells > 3


def test_a_stack_with_a_missing_slice_is_told_and_not_linked(images, tmp_path, capsys):
    out = tmp_path / "out"
    calls = []

    def failing(rgb):
        calls.append(1)
        if len(calls) == 3:
            raise ValueError("no")
        return segment_bright(rgb)

    tasks = tasks_of(images, out)
    run(tasks, out, failing)
    assert len(list(out.glob("*_linked.ome.tif"))) == 1
    assert "not linked: 1 of 5 slices are missing" in capsys.readouterr().err
    run(tasks, out)  # the next run makes up for it
    assert len(list(out.glob("*_linked.ome.tif"))) == 2


def test_where_it_cannot_be_done(images, tmp_path):
    tasks = tasks_of(images, tmp_path)
    assert len(stacks_of_tasks(tasks)) == 2
    require_linkable(tasks, False)
    with pytest.raises(ConfigError, match="--link-z, --shard: one or the other"):
        require_linkable(tasks, True)
    with pytest.raises(ConfigError, match="links what the format tif holds.*add tif to --format"):
        require_linkable(tasks_of(images, tmp_path, ("csv",)), False)
    (images / "film.ome.tif").unlink()
    with pytest.raises(ConfigError, match="no stack among the images"):
        require_linkable(tasks_of(images, tmp_path), False)
