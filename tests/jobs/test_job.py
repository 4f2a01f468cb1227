"""A job's folder over several runs: what is skipped, done again, refused, replaced and kept."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from job_harness import (
    SETTINGS,
    done_names,
    lines_of,
    outputs_in,
    run,
    segment_bright,
    write_images,
)
from PIL import Image

from cellseg1_rt.errors import ConfigError
from cellseg1_rt.jobs import faults
from cellseg1_rt.jobs.folder import Mode, require_free
from cellseg1_rt.jobs.inputs import Shard, find_inputs, plan_tasks
from cellseg1_rt.jobs.journal import Journal


class Counting:
    """The harness's device, which counts the images it is given."""

    def __init__(self) -> None:
        self.images = 0

    def __call__(self, rgb: np.ndarray):
        self.images += 1
        return segment_bright(rgb)


@pytest.fixture
def images(tmp_path) -> Path:
    write_images(tmp_path / "in", 5)
    return tmp_path / "in"


@pytest.fixture
def folder(images, tmp_path) -> Path:
    """A job that is finished."""
    run(images, tmp_path / "out")
    return tmp_path / "out"


def segmented(images: Path, folder: Path, **options) -> int:
    """How many images a run gave to the device."""
    device = Counting()
    run(images, folder, device=device, **options)
    return device.images


def test_what_a_job_leaves(images, folder):
    names = sorted(os.listdir(folder))
    outputs = [f"image{i}_{what}" for i in range(5) for what in ("cells.csv", "labels.tif")]
    assert names == sorted([*outputs, "job.html", "job.json", "journal.jsonl"])
    summary = json.loads((folder / "job.json").read_text())
    assert summary["ended"] == "finished"
    assert (summary["images"], summary["done"], summary["failed"], summary["left"]) == (5, 5, 0, 0)
    lines = lines_of(folder)
    assert summary["cells"] == sum(line["cells"] for line in lines) > 5
    assert list(lines[0]["seconds"]) == ["read", "segment", "write"]
    page = (folder / "job.html").read_text()
    assert page.count("<img ") == 5
    assert "http" not in page.replace("http-equiv", "")


def test_a_finished_job_is_left_as_it_is(images, folder):
    before = outputs_in(folder)
    times = {path: path.stat().st_mtime_ns for path in folder.glob("image*")}
    assert segmented(images, folder) == 0
    assert outputs_in(folder) == before
    assert {path: path.stat().st_mtime_ns for path in folder.glob("image*")} == times
    assert len(lines_of(folder)) == 5


def same_bytes_later(images: Path, folder: Path) -> None:
    for path in images.iterdir():
        os.utime(path, ns=(1, 1))


def same_bytes_elsewhere(images: Path, folder: Path) -> None:
    shutil.copytree(images, images.parent / "copy")
    shutil.rmtree(images)
    (images.parent / "copy").rename(images)


def other_bytes(images: Path, folder: Path) -> None:
    path = images / "image2.png"
    data = bytearray(path.read_bytes())
    path.unlink()
    write_images(images.parent / "other", 1, seed=5)
    shutil.copy(images.parent / "other" / "image0.png", path)
    assert path.read_bytes() != data


def other_bytes_of_one_size(images: Path, folder: Path) -> None:
    path = images / "image2.png"
    size = path.stat().st_size
    pixels = np.zeros((31, 37), np.uint8)
    pixels[3:8, 5:16] = 255
    Image.fromarray(pixels).save(path)
    data = path.read_bytes()
    assert len(data) < size
    path.write_bytes(data + bytes(size - len(data)))  # what follows a PNG's end is not read


def output_gone(images: Path, folder: Path) -> None:
    (folder / "image2_cells.csv").unlink()


def output_cut(images: Path, folder: Path) -> None:
    path = folder / "image2_labels.tif"
    path.write_bytes(path.read_bytes()[:100])


def output_flipped(images: Path, folder: Path) -> None:
    path, times = folder / "image2_labels.tif", (folder / "image2_labels.tif").stat()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def image_added(images: Path, folder: Path) -> None:
    write_images(images.parent / "more", 1, seed=7)[0].rename(images / "added.png")


CHANGES = {
    "nothing but the time": (same_bytes_later, 0),
    "the same bytes in new files": (same_bytes_elsewhere, 0),
    "another image": (other_bytes, 1),
    "another image in place": (other_bytes_of_one_size, 1),
    "an output is gone": (output_gone, 1),
    "an output is cut": (output_cut, 1),
    "an output has one bit changed, its time not": (output_flipped, 1),
    "an image more": (image_added, 1),
}


@pytest.mark.parametrize("name", CHANGES)
def test_exactly_what_changed_is_done_again(name, images, folder, tmp_path):
    change, count = CHANGES[name]
    change(images, folder)
    assert segmented(images, folder, mode=Mode.RESUME) == count
    run(images, tmp_path / "fresh")
    assert outputs_in(folder) == outputs_in(tmp_path / "fresh")
    assert segmented(images, folder, mode=Mode.RESUME) == 0


@pytest.mark.parametrize("change", [output_cut, output_flipped])
def test_a_changed_output_is_not_replaced_unless_asked(change, images, folder):
    change(images, folder)
    kept = (folder / "image2_labels.tif").read_bytes()
    summary = run(images, folder)
    assert (summary.done, summary.failed) == (4, 1)
    assert "image2_labels.tif: changed since it was written" in summary.failures[0].error
    assert "--resume" in summary.failures[0].error
    assert (folder / "image2_labels.tif").read_bytes() == kept
    assert (folder / "image2_cells.csv").exists()


def test_other_settings_are_named_and_refused(images, folder):
    before = outputs_in(folder)
    other = {**SETTINGS, "score": 0.9, "runtime": "abacus"}
    for mode in (Mode.GO_ON, Mode.RESUME):
        with pytest.raises(ConfigError) as caught:
            run(images, folder, settings=other, mode=mode)
        assert "got score 0.9, runtime abacus; expected score 0.8, runtime none" in str(
            caught.value
        )
        assert "--overwrite" in str(caught.value)
    assert outputs_in(folder) == before
    assert segmented(images, folder, settings=other, mode=Mode.OVERWRITE) == 5
    assert segmented(images, folder, settings=other) == 0


def test_overwrite_leaves_nothing_of_what_it_replaces(images, folder):
    (folder / "note.txt").write_text("kept")
    (images / "image3.png").write_bytes(b"damaged")
    assert segmented(images, folder, mode=Mode.OVERWRITE) == 4
    assert not list(folder.glob("image3*"))
    assert (folder / "note.txt").read_text() == "kept"
    assert done_names(folder) == ["image0", "image1", "image2", "image4"]


def test_leftovers_of_a_killed_run_go_before_the_first_image_and_nothing_else_does(
    images, tmp_path
):
    hidden = tmp_path / "out" / ".cellseg1-rt-job"
    hidden.mkdir(parents=True)
    (hidden / "image0_labels.tif").write_text("half")
    (hidden / "some.ome.zarr").mkdir()
    (tmp_path / "out" / ".mine.tif").write_text("kept")
    found = []

    def device(rgb: np.ndarray):
        found.append((hidden / "some.ome.zarr").exists())
        return segment_bright(rgb)

    run(images, tmp_path / "out", device=device)
    assert found == [False] * 5
    assert not hidden.exists()
    assert (tmp_path / "out" / ".mine.tif").read_text() == "kept"


def test_an_output_that_has_its_line_and_not_its_name_gets_it_by_the_next_run(
    images, tmp_path, monkeypatch
):
    real, out = os.replace, tmp_path / "out"

    def replace(source, target):
        if Path(target) == out / "image1_cells.csv":
            raise PermissionError(errno.EACCES, "Permission denied", str(target))
        return real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(ConfigError, match="Permission denied"):
        run(images, out)
    monkeypatch.undo()
    assert not (out / "image1_cells.csv").exists()
    assert run(images, out).before == 2
    assert done_names(out) == [f"image{i}" for i in range(5)]


def test_files_of_others_are_in_the_way(images, folder, tmp_path):
    tasks = plan_tasks(find_inputs([images]), folder, ["tif", "csv"])
    require_free(folder, tasks, Mode.GO_ON)
    image_added(images, folder)
    (folder / "added_labels.tif").write_text("of another program")
    tasks = plan_tasks(find_inputs([images]), folder, ["tif", "csv"])
    with pytest.raises(ConfigError, match=r"added_labels.tif: 1 of the outputs are there already"):
        require_free(folder, tasks, Mode.RESUME)
    require_free(folder, tasks, Mode.OVERWRITE)


def damage(images: Path) -> None:
    (images / "image1.png").write_bytes((images / "image1.png").read_bytes()[:70])
    np.save(images / "nan.npy", np.full((31, 37), np.nan))
    (images / "gone.png").symlink_to(images / "nowhere.png")
    (images / "empty.tif").write_bytes(b"")


def test_damaged_images_fail_alone_and_are_tried_again(images, tmp_path):
    damage(images)
    named = images / "gone.png"
    tasks = plan_tasks(find_inputs([images, named]), tmp_path / "out", ["tif", "csv"])
    assert len(tasks) == 8
    summary = run(images, tmp_path / "out")
    assert (summary.done, summary.failed, summary.left) == (4, 3, 0)
    lines = {line["name"]: line for line in lines_of(tmp_path / "out")}
    for name, reason in {"image1": "damaged", "nan": "finite", "empty": "empty"}.items():
        assert reason in lines[name]["error"]
        assert lines[name]["outputs"] == []
        assert not list((tmp_path / "out").glob(f"{name}_*"))
    write_images(images, 5)
    summary = run(images, tmp_path / "out")
    assert (summary.done, summary.before, summary.failed) == (5, 4, 2)


@pytest.mark.parametrize(
    "error", [MemoryError("8 GB"), RuntimeError("a kernel"), OSError(errno.EIO, "drive")]
)
def test_whatever_the_device_raises_is_one_images_failure(error, images, tmp_path):
    count = 0

    def device(rgb: np.ndarray):
        nonlocal count
        count += 1
        if count == 3:
            raise error
        return segment_bright(rgb)

    summary = run(images, tmp_path / "out", device=device)
    assert (summary.done, summary.failed) == (4, 1)
    assert "image2.png" in summary.failures[0].error


def test_a_drive_that_is_away_for_a_while_costs_nothing(images, tmp_path, monkeypatch):
    monkeypatch.setattr(faults, "DELAYS_S", (0.0, 0.0))
    monkeypatch.setattr(faults.with_retries, "__defaults__", ((0.0, 0.0),))
    real, failures = os.stat, []

    def stat(path, *arguments, **options):
        if str(path).endswith("image3.png") and len(failures) < 2:
            failures.append(path)
            raise OSError(errno.ESTALE, "stale", str(path))
        return real(path, *arguments, **options)

    run_tasks = plan_tasks(find_inputs([images]), tmp_path / "out", ["tif"])
    assert len(run_tasks) == 5
    inputs = find_inputs([images])
    monkeypatch.setattr("job_harness.find_inputs", lambda _: inputs)
    monkeypatch.setattr(os, "stat", stat)
    summary = run(images, tmp_path / "out")
    assert len(failures) == 2
    assert (summary.done, summary.failed) == (5, 0)


def test_a_full_disk_ends_the_job_and_keeps_what_is_done(images, tmp_path, monkeypatch):
    real, count = os.replace, 0

    def replace(source, target):
        nonlocal count
        if str(source).endswith(".tif"):
            count += 1
        if count > 4:  # a file is renamed once when it is whole and once when its line is written
            raise OSError(errno.ENOSPC, "No space left on device", str(target))
        return real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(ConfigError, match="No space left on device.*what is done is kept"):
        run(images, tmp_path / "out")
    monkeypatch.undo()
    assert done_names(tmp_path / "out") == ["image0", "image1"]
    assert run(images, tmp_path / "out").before == 2
    run(images, tmp_path / "whole")
    assert outputs_in(tmp_path / "out") == outputs_in(tmp_path / "whole")


def test_outputs_are_flushed_then_the_line_then_the_names(images, tmp_path, monkeypatch):
    log: list[str] = []
    real_fsync, real_replace = os.fsync, os.replace

    def name_of(path) -> str:
        return Path(path).name.replace("image0_", "")

    def fsync(handle: int) -> None:
        log.append(f"flush {name_of(os.readlink(f'/proc/self/fd/{handle}'))}")
        real_fsync(handle)

    def replace(source, target) -> None:
        hidden = Path(target).parent.name.startswith(".")
        log.append(f"{'make' if hidden else 'publish'} {name_of(target)}")
        real_replace(source, target)

    for path in images.glob("image[1-4].png"):
        path.unlink()
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    run(images, tmp_path / "out")
    start = log.index("make labels.tif")
    assert log[start - 1].startswith("flush .cellseg1-rt-")
    steps = [step for step in log[start:] if "flush .cellseg1-rt-" not in step]
    assert steps[:6] == [
        "make labels.tif",
        "make cells.csv",
        "flush journal.jsonl",
        "publish labels.tif",
        "publish cells.csv",
        "flush out",
    ]


def test_shards_share_a_folder_and_make_one_job(images, tmp_path):
    out = tmp_path / "out"
    done = [run(images, out, shard=Shard(i, 3)).done for i in (1, 2, 3)]
    assert sum(done) == 5
    run(images, tmp_path / "whole")
    assert outputs_in(out) == outputs_in(tmp_path / "whole")
    assert (out / "journal-2of3.jsonl").exists()
    assert json.loads((out / "job-2of3.json").read_text())["shard"] == "2/3"
    # Without shards, or with others, what they did counts.
    assert segmented(images, out) == 0
    assert segmented(images, out, shard=Shard(1, 2)) == 0
    with pytest.raises(ConfigError, match="other settings"):
        run(images, out, shard=Shard(1, 3), settings={"score": 0.1})


def test_a_run_beside_another_one_is_refused(images, folder, monkeypatch):
    monkeypatch.setattr(Journal.__init__, "__kwdefaults__", {"patience_s": 0.0})
    held = Journal(folder / "journal.jsonl")
    before = outputs_in(folder)
    for mode in Mode:
        with pytest.raises(ConfigError, match="another run is at work on this job"):
            run(images, folder, mode=mode)
    held.close()
    assert outputs_in(folder) == before


def test_a_table_of_the_job_is_the_same_however_it_was_cut(images, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    formats = ("csv", "parquet")
    run(images, tmp_path / "whole", formats=formats, workers=2)
    hidden = images.parent / "image4.png"
    (images / "image4.png").rename(hidden)
    run(images, tmp_path / "cut", formats=formats)
    hidden.rename(images / "image4.png")
    assert segmented(images, tmp_path / "cut", formats=formats) == 1
    assert outputs_in(tmp_path / "cut") == outputs_in(tmp_path / "whole")
    assert "cells.parquet" in outputs_in(tmp_path / "cut")
    # What is no longer so is no longer in it.
    (images / "image3.png").write_bytes(b"damaged")
    run(images, tmp_path / "cut", formats=formats)
    table = parquet.read_table(tmp_path / "cut" / "cells.parquet")
    assert set(table["image"].to_pylist()) == {"image0", "image1", "image2", "image4"}


def test_an_output_that_is_a_folder_is_kept_replaced_and_checked(images, tmp_path):
    pytest.importorskip("zarr")
    out = tmp_path / "out"
    run(images, out, formats=("zarr",))
    before = outputs_in(out)
    assert segmented(images, out, formats=("zarr",)) == 0
    chunk = next(path for path in sorted((out / "image1.ome.zarr").rglob("*")) if path.is_file())
    chunk.write_bytes(chunk.read_bytes() + b" ")
    assert segmented(images, out, formats=("zarr",), mode=Mode.RESUME) == 1
    assert outputs_in(out) == before
