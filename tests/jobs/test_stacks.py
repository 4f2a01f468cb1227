"""Jobs over stacks and plates: an image a plane, each with its own line, failure and resume."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest
import tifffile
from job_harness import SETTINGS, done_names, lines_of, segment_bright, write_images
from zarr_images import change_metadata, write_plate, write_zarr

from cellseg1_rt.errors import MissingExtraError
from cellseg1_rt.formats import read_labels
from cellseg1_rt.formats.ngff_planes import files_of_zarr_plane
from cellseg1_rt.formats.planes import PlaneAddress
from cellseg1_rt.jobs import fingerprints, stacks
from cellseg1_rt.jobs.folder import Mode
from cellseg1_rt.jobs.inputs import Input, Shard, find_inputs, plan_tasks
from cellseg1_rt.jobs.job import Job, run_job
from cellseg1_rt.jobs.records import InputFile
from cellseg1_rt.jobs.stacks import split_stacks

PLANES = 7


def scene(seed: int) -> np.ndarray:
    """Dim noise and three bright squares, [31, 37]."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 60, (31, 37)).astype(np.uint8)
    for y, x in rng.integers(2, 22, (3, 2)):
        pixels[y : y + 5, x : x + 7] = 255
    return pixels


def scenes(count: int, first: int = 0) -> np.ndarray:
    return np.stack([scene(first + number) for number in range(count)])


def write_stack(path: Path, count: int = PLANES) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"metadata": {"axes": "ZYX"}, "photometric": "minisblack", "compression": "zlib"}
    tifffile.imwrite(path, scenes(count), **options)
    return path


def write_zarr_stack(path: Path, count: int = 3) -> Path:
    return write_zarr(path, scenes(count), "zyx", chunks=(1, 16, 32))


def split(*given: Path | str) -> list[Input]:
    notes: list[str] = []
    found = split_stacks(find_inputs(given), notes.append)
    assert notes == []
    return found


def run(given: list[Path], folder: Path, mode: Mode = Mode.GO_ON, shard: Shard | None = None):
    """One run of a job: its summary, and how many images were given to the device."""
    images = []

    def device(rgb):
        images.append(rgb)
        return segment_bright(rgb)

    tasks = plan_tasks(split(*given), folder, ("tif",), shard)
    job = Job(tasks, folder, SETTINGS, None, shard, mode, 2)
    stop = threading.Event()
    summary = run_job(job, [device], stop=stop, report=lambda outcome, tally: None)
    return summary, len(images)


def test_each_plane_is_an_image_of_the_job(tmp_path):
    write_images(tmp_path / "in", 2)
    write_stack(tmp_path / "in" / "stack.tif", 3)
    write_plate(tmp_path / "in" / "plate.ome.zarr", {"A/1/0": scene(7), "B/2/0": scene(11)}, "yx")
    summary, segmented = run([tmp_path / "in"], tmp_path / "out")
    names = [
        "image0", "image1", "plate_A1_0", "plate_B2_0", "stack_z000", "stack_z001", "stack_z002",
    ]  # fmt: skip
    assert (summary.done, summary.failed, segmented) == (7, 0, 7)
    assert done_names(tmp_path / "out") == names
    for z, pixels in enumerate(scenes(3)):
        found = read_labels(tmp_path / "out" / f"stack_z{z:03d}_labels.tif")
        expected = segment_bright(np.repeat(pixels[..., None], 3, 2)).labels
        np.testing.assert_array_equal(found, expected)
    told = {line["name"]: line["input"]["plane"] for line in lines_of(tmp_path / "out")}
    assert told["stack_z002"] == "z 2"
    assert told["plate_B2_0"] == "image B/2/0"
    assert told["image0"] == ""
    assert run([tmp_path / "in"], tmp_path / "out")[1] == 0


def test_a_stack_that_cannot_be_opened_is_one_failure(tmp_path):
    path = write_stack(tmp_path / "in" / "stack.tif")
    with tifffile.TiffFile(path) as tif:
        start = tif.pages[3].offset
    path.write_bytes(path.read_bytes()[: start + 9])
    (tmp_path / "in" / "empty.zarr").mkdir()
    write_images(tmp_path / "in", 2)
    summary, _ = run([tmp_path / "in"], tmp_path / "out")
    assert (summary.done, summary.failed) == (2, 2)
    failures = {failure.source: failure.error for failure in summary.failures}
    assert "this TIFF file is cut off; got directory 4" in failures[str(path)]
    assert "cannot be read" in failures[str(tmp_path / "in" / "empty.zarr")]


def test_a_damaged_plane_costs_itself_and_is_named(tmp_path):
    path = write_stack(tmp_path / "in" / "stack.tif")
    with tifffile.TiffFile(path) as tif:
        page = tif.pages[5]
        offset, n_bytes = page.dataoffsets[0], page.databytecounts[0]
    data = bytearray(path.read_bytes())
    data[offset : offset + n_bytes] = bytes(n_bytes)
    path.write_bytes(data)
    summary, _ = run([path], tmp_path / "out")
    assert (summary.done, summary.failed) == (PLANES - 1, 1)
    assert summary.failures[0].source == f"{path} (z 5)"


def test_a_stack_is_hashed_once_for_all_its_planes(tmp_path, monkeypatch):
    path = write_stack(tmp_path / "stack.tif")
    hashed = []
    original = fingerprints.sha256_of_file
    monkeypatch.setattr(
        fingerprints, "sha256_of_file", lambda file: hashed.append(file) or original(file)
    )
    assert run([path], tmp_path / "out")[1] == PLANES
    assert hashed == [path]
    os.utime(path, ns=(1, 1))  # so that its bytes have to decide
    assert run([path], tmp_path / "out")[1] == 0
    assert hashed == [path, path]


def test_other_bytes_anywhere_in_a_file_do_all_its_planes_again(tmp_path):
    path = write_stack(tmp_path / "stack.tif")
    run([path], tmp_path / "out")
    tifffile.imwrite(path, scenes(PLANES, first=1), metadata={"axes": "ZYX"})
    assert run([path], tmp_path / "out", Mode.RESUME)[1] == PLANES


def other_chunk(path: Path) -> None:
    (chunk,) = [file for file in files_of_zarr_plane(path, z(1)) if file.match("1/0/0")]
    chunk.write_bytes(chunk.read_bytes()[:-1] + b"\0")


def chunk_gone(path: Path) -> None:
    (chunk,) = [file for file in files_of_zarr_plane(path, z(1)) if file.match("1/1/1")]
    chunk.unlink()


def later(path: Path) -> None:
    for file in path.rglob("*"):
        os.utime(file, ns=(1, 1))


def other_metadata(path: Path) -> None:
    change_metadata(path, lambda told: told["multiscales"][0].update(name="other"))


def other_level(path: Path) -> None:
    levels = sorted({file.relative_to(path).parts[0] for file in path.rglob(".zarray")})
    for file in (path / levels[1]).rglob("*"):
        if file.is_file() and not file.name.startswith("."):
            file.unlink()


def z(index: int) -> PlaneAddress:
    return PlaneAddress("", (("Z", index),), f"z{index:03d}")


def labels_beside(path: Path) -> None:
    write_zarr(path / "labels" / "cells", scenes(3), "zyx")


CHANGES = {
    "a chunk of one plane": (other_chunk, ["a_z001"]),
    "a chunk of one plane is gone": (chunk_gone, ["a_z001"]),
    "nothing but the times": (later, []),
    "the metadata": (other_metadata, ["a_z000", "a_z001", "a_z002"]),
    "a level that is not read": (other_level, []),
    "labels are added": (labels_beside, []),
}


@pytest.mark.parametrize(("change", "again"), CHANGES.values(), ids=CHANGES)
def test_what_is_done_again_after_a_change_in_a_zarr_folder(tmp_path, change, again):
    path = write_zarr_stack(tmp_path / "a.ome.zarr")
    run([path], tmp_path / "out")
    change(path)
    run([path], tmp_path / "out", Mode.RESUME)
    assert sorted(line["name"] for line in lines_of(tmp_path / "out")[3:]) == again


def test_a_folder_that_was_copied_is_the_same(tmp_path):
    path = write_zarr_stack(tmp_path / "a.ome.zarr")
    run([path], tmp_path / "out")
    (tmp_path / "moved").mkdir()
    moved = path.rename(tmp_path / "moved" / path.name)
    assert run([moved], tmp_path / "out", Mode.RESUME)[1] == 0


def test_the_file_of_a_line_is_of_its_plane(tmp_path):
    path = write_stack(tmp_path / "stack.tif")
    file = InputFile.of(path, z(1))
    assert file.is_same_as(path, z(1))
    assert not file.is_same_as(path, z(2))
    assert not file.is_same_as(path)
    assert InputFile.of(path).is_same_as(path)
    assert InputFile.of(path).sha256 == file.sha256
    zarr = write_zarr_stack(tmp_path / "a.zarr")
    files = files_of_zarr_plane(zarr, z(1))
    told = InputFile.of(zarr, z(1))
    assert told.size_bytes == sum(file.stat().st_size for file in files)
    assert told.mtime_ns == max(file.stat().st_mtime_ns for file in files)


def test_a_zarr_folder_that_changes_while_it_is_read(tmp_path, monkeypatch):
    path = write_zarr_stack(tmp_path / "a.zarr", 1)
    original = fingerprints.Fingerprint.sha256

    def changed(self):
        digest = original(self)
        later(path)
        return digest

    monkeypatch.setattr(fingerprints.Fingerprint, "sha256", changed)
    summary, _ = run([path], tmp_path / "out")
    (failure,) = summary.failures
    assert "the file changed while it was read" in failure.error


def test_shards_share_the_planes_of_one_stack(tmp_path):
    path = write_stack(tmp_path / "stack.tif", 23)
    parts = [run([path], tmp_path / "out", shard=Shard(i, 3))[0] for i in (1, 2, 3)]
    assert sum(part.done for part in parts) == 23
    assert all(part.done > 2 for part in parts)
    (first, *_) = split(path)
    assert first.relative == "stack.tif/z000"
    assert run([path], tmp_path / "out")[1] == 0


def test_what_is_guessed_is_told_and_pictures_are_not_opened(tmp_path, monkeypatch):
    path = tmp_path / "pages.tif"
    tifffile.imwrite(path, scenes(3), photometric="minisblack", metadata=None)
    write_images(tmp_path, 2)
    opened = []
    original = stacks.list_planes
    monkeypatch.setattr(stacks, "list_planes", lambda file: opened.append(file) or original(file))
    notes: list[str] = []
    found = split_stacks(find_inputs([tmp_path]), notes.append)
    assert [image.stem for image in found] == [
        "image0", "image1", "pages_p000", "pages_p001", "pages_p002",
    ]  # fmt: skip
    assert opened == [path]
    (note,) = notes
    assert note.startswith(f"{path}: 3 pages without named axes")


def test_a_missing_library_is_told_before_the_job(tmp_path, monkeypatch):
    path = write_zarr_stack(tmp_path / "a.zarr")
    monkeypatch.setattr("cellseg1_rt.extras.is_installed", lambda package: False)
    with pytest.raises(MissingExtraError, match=r"cellseg1-rt\[zarr\]"):
        split(path)


def test_an_old_journal_without_planes_still_counts(tmp_path):
    write_images(tmp_path / "in", 2)
    run([tmp_path / "in"], tmp_path / "out")
    journal = tmp_path / "out" / "journal.jsonl"
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    for line in lines[1:]:
        del line["input"]["plane"]
    journal.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert run([tmp_path / "in"], tmp_path / "out")[1] == 0
