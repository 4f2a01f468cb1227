"""Images that a job cuts into tiles: beside others, killed, failing, and shown."""

from __future__ import annotations

import errno
import threading

import numpy as np
import pytest
import tifffile
from job_harness import SETTINGS, lines_of, outputs_in, segment_bright
from packing import packed
from scipy import ndimage

from cellseg1_rt.errors import ConfigError, InputError
from cellseg1_rt.formats import read_labels
from cellseg1_rt.jobs import large as large_module
from cellseg1_rt.jobs.folder import Mode
from cellseg1_rt.jobs.inputs import find_inputs, plan_tasks
from cellseg1_rt.jobs.job import Job, run_job
from cellseg1_rt.jobs.large import LargeImages, with_tiles
from cellseg1_rt.runtime.candidates import Found
from cellseg1_rt.runtime.pieces import pieces_from_candidates
from cellseg1_rt.runtime.pipeline import Candidates
from cellseg1_rt.runtime.tiling import Tiling
from cellseg1_rt.settings import InferenceSettings

MODEL = InferenceSettings(min_area=0, max_area_ratio=0.0)
ALL = ("tif", "ome", "png", "roi", "geojson", "csv", "overlay")


def bright_pieces(rgb, tile, plan):
    """Bright pieces of a tile as candidates."""
    labels, count = ndimage.label(rgb[..., 0] > 127)
    masks = np.array([labels == label for label in range(1, count + 1)])
    candidates = Candidates(
        Found(
            np.zeros(count, np.int32),
            np.full(count, 0.9, np.float32),
            np.full(count, 0.7, np.float32),
            np.zeros((count, 2), np.float32),
            packed(masks.reshape(count, *labels.shape)),
        ),
        labels.shape,
        floors=MODEL,
        settings=MODEL,
    )
    return pieces_from_candidates(candidates, tile, plan, MODEL)


def scene(seed: int, shape=(151, 223)) -> np.ndarray:
    """Bright squares that do not touch, on a dark ground."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 60, shape).astype(np.uint8)
    for y in range(3, shape[0] - 12, 17):
        for x in range(3, shape[1] - 12, 19):
            dy, dx = rng.integers(0, 5, 2)
            pixels[y + dy : y + dy + 5, x + dx : x + dx + 7] = 255
    return pixels


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    tifffile.imwrite(folder / "large.tif", scene(1), tile=(64, 64))
    tifffile.imwrite(folder / "small.tif", scene(2, (61, 59)))
    return folder


def run(images, folder, *, tile=67, formats=("tif", "csv"), device=None, mode=Mode.GO_ON):
    job = Job(
        plan_tasks(find_inputs([images]), folder, formats),
        folder,
        SETTINGS,
        mode=mode,
        workers=1,
        large=LargeImages(Tiling(tile, 512), MODEL),
    )
    device = device or with_tiles(segment_bright, bright_pieces)
    return run_job(job, [device], stop=threading.Event(), report=lambda outcome, tally: None)


def test_a_large_image_beside_a_small_one(images, tmp_path):
    summary = run(images, tmp_path / "out", formats=ALL)
    assert summary.done == 2
    expected, count = ndimage.label(scene(1) == 255)
    labels = read_labels(tmp_path / "out" / "large_labels.tif")
    assert labels.max() == count
    pairs = np.unique(np.stack([labels.ravel(), expected.ravel()]), axis=1)
    assert pairs.shape[1] == count + 1
    for name in ("large_labels.ome.tif", "large_labels.png"):
        np.testing.assert_array_equal(read_labels(tmp_path / "out" / name), labels)
    small = read_labels(tmp_path / "out" / "small_labels.tif")
    np.testing.assert_array_equal(small > 0, scene(2, (61, 59)) == 255)
    names = {line["name"]: line["cells"] for line in lines_of(tmp_path / "out")}
    assert names == {"large": count, "small": small.max()}
    page = (tmp_path / "out" / "job.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 2


def test_what_is_done_is_not_done_again(images, tmp_path):
    run(images, tmp_path / "out")
    before = outputs_in(tmp_path / "out")
    summary = run(images, tmp_path / "out", device=lambda item: pytest.fail("segmented again"))
    assert summary.before == 2
    assert outputs_in(tmp_path / "out") == before
    assert sorted(before) == [
        "large_cells.csv",
        "large_labels.tif",
        "small_cells.csv",
        "small_labels.tif",
    ]


def test_a_tile_that_fails_fails_its_image_alone(images, tmp_path):
    calls = []

    def failing(rgb, tile, plan):
        calls.append(tile)
        if tile == 3:
            raise ValueError("out of order")
        return bright_pieces(rgb, tile, plan)

    summary = run(images, tmp_path / "out", device=with_tiles(segment_bright, failing))
    assert (summary.done, len(summary.failures)) == (1, 1)
    assert "large.tif: cannot be segmented, for a reason" in summary.failures[0].error
    assert "got ValueError: out of order" in summary.failures[0].error
    assert calls == [0, 1, 2, 3]
    assert not list((tmp_path / "out").glob("large*"))


def test_a_full_disk_ends_the_job(images, tmp_path, monkeypatch):
    def full(self, rows):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(large_module.LabelFile, "add", full)
    with pytest.raises(ConfigError, match="cannot be segmented, so the job ends here"):
        run(images, tmp_path / "out")


def test_an_image_that_cannot_be_read_again_fails_alone(images, tmp_path, monkeypatch):
    def gone(*arguments):
        raise OSError(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr(large_module, "preview_of_plane", gone)
    summary = run(images, tmp_path / "out")
    assert summary.done == 1
    assert "large.tif: cannot be read; got No such file" in summary.failures[0].error
    assert not list((tmp_path / "out").glob("large*"))


def test_a_file_that_changes_meanwhile_is_refused(images, tmp_path):
    def changing(rgb, tile, plan):
        if tile == 2:
            tifffile.imwrite(images / "large.tif", scene(3), tile=(64, 64))
        return bright_pieces(rgb, tile, plan)

    summary = run(images, tmp_path / "out", device=with_tiles(segment_bright, changing))
    assert "the file changed while it was read" in summary.failures[0].error


def test_pixels_that_cannot_be_normalised(images, tmp_path):
    pixels = scene(1).astype(np.float32)
    pixels[149, 211] = np.inf
    tifffile.imwrite(images / "large.tif", pixels, tile=(64, 64))
    summary = run(images, tmp_path / "out")
    assert "large.tif: values that are not finite" in summary.failures[0].error
    assert "row 149, column 211" in summary.failures[0].error


def test_none_cuts_nothing(images, tmp_path):
    device = with_tiles(segment_bright, lambda *tile: pytest.fail("a tile"))
    assert run(images, tmp_path / "out", tile="none", device=device).done == 2


def test_how_far_an_image_is_is_told_now_and_then(images, tmp_path, monkeypatch, capsys):
    run(images, tmp_path / "quick")
    assert "tile" not in capsys.readouterr().err
    monkeypatch.setattr(large_module, "LOG_EVERY_S", 0.0)
    run(images, tmp_path / "slow")
    told = [line for line in capsys.readouterr().err.splitlines() if "tile" in line]
    assert told == [f"large: tile {done} of 15" for done in range(1, 16)]


def test_the_file_with_labels_goes_with_its_image(images, tmp_path):
    item = LargeImages(Tiling(67, 512), MODEL)
    (task,) = plan_tasks(find_inputs([images / "large.tif"]), tmp_path, ["tif"])
    with task.open() as source:
        prepared = item.prepare(source, task, None, tmp_path, threading.Event())
    segmented = prepared.segmented_by(with_tiles(segment_bright, bright_pieces))
    segmented.close()
    with pytest.raises(ValueError, match="closed"):
        segmented.result.labels.read(slice(0, 1))
    with pytest.raises(InputError):
        prepared.segmented_by(failing_device)


def failing_device(item):
    raise InputError("no")
