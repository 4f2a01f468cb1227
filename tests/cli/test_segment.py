"""``segment`` as a person uses it: what it writes, and what it says when it cannot."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from cellseg1_rt.formats import read_labels

FAST = ("--points", 6)


JOB = {"journal.jsonl", "job.json", "job.html"}


def files_in(folder: Path) -> list[str]:
    """Outputs; what tells of the job itself must be there and is left out."""
    names = {path.name for path in folder.iterdir()}
    assert names >= JOB
    return sorted(names - JOB)


def errors_in(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("error:")]


def test_writes_what_was_asked_for(run_command, sample, tmp_path):
    done = run_command(
        "segment", sample, "-o", tmp_path / "out", "--format", "tif,png,csv,overlay", *FAST
    )
    assert done.code == 0, done.err
    stem = sample.stem
    assert files_in(tmp_path / "out") == [
        f"{stem}_cells.csv",
        f"{stem}_labels.png",
        f"{stem}_labels.tif",
        f"{stem}_overlay.png",
    ]
    labels = tifffile.imread(tmp_path / "out" / f"{stem}_labels.tif")
    assert labels.shape == (256, 256)
    assert labels.dtype == np.uint16
    np.testing.assert_array_equal(labels, read_labels(tmp_path / "out" / f"{stem}_labels.png"))
    with (tmp_path / "out" / f"{stem}_cells.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["label"]) for row in rows] == list(range(1, labels.max() + 1))
    assert [int(row["area_px"]) for row in rows] == np.bincount(labels.ravel())[1:].tolist()
    assert "runtime onnxruntime" in done.err
    assert "1 of 1 images done" in done.out


def test_folders_and_globs(run_command, sample, tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    for name in ("b.png", "a.png", "note.txt", ".hidden.png"):
        shutil.copy(sample, source / name)
    done = run_command("segment", source, "-o", tmp_path / "1", "--format", "csv", *FAST)
    assert done.code == 0, done.err
    assert files_in(tmp_path / "1") == ["a_cells.csv", "b_cells.csv"]
    done = run_command(
        "segment", source / "[a]*.png", "-o", tmp_path / "2", "--format", "csv", *FAST
    )
    assert done.code == 0, done.err
    assert files_in(tmp_path / "2") == ["a_cells.csv"]


def test_resize_gives_labels_of_that_size(run_command, sample, tmp_path):
    done = run_command("segment", sample, "-o", tmp_path, "--format", "tif", "--resize", 512, *FAST)
    assert done.code == 0, done.err
    assert tifffile.imread(tmp_path / f"{sample.stem}_labels.tif").shape == (512, 512)


def test_thresholds_reach_the_model(run_command, sample, tmp_path):
    done = run_command(
        "segment", sample, "-o", tmp_path, "--format", "tif", "--max-area-ratio", 1e-5, *FAST
    )
    assert done.code == 0, done.err
    assert not tifffile.imread(tmp_path / f"{sample.stem}_labels.tif").any()


def test_one_bad_file_does_not_stop_the_others(run_command, sample, tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    shutil.copy(sample, source / "good.png")
    (source / "bad.png").write_bytes(sample.read_bytes()[:999])
    done = run_command("segment", source, "-o", tmp_path / "out", *FAST)
    assert done.code == 1
    assert files_in(tmp_path / "out") == ["good_cells.csv", "good_labels.tif"]
    assert len(errors_in(done.err)) == 1
    assert str(source / "bad.png") in done.err
    assert "1 of 2 images done" in done.out
    # The same command tries the bad one again, and only that one.
    shutil.copy(sample, source / "bad.png")
    done = run_command("segment", source, "-o", tmp_path / "out", *FAST)
    assert done.code == 0, done.err
    assert "2 of 2 images done (1 before)" in done.out


def write_npy(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


BAD_IMAGES = {
    "missing": (lambda folder: folder / "none.png", "none.png"),
    "truncated": (None, "cut.png"),
    "four axes": (lambda folder: write_npy(folder / "a.npy", np.zeros((2, 3, 5, 7))), "a.npy"),
    "zero-size": (lambda folder: write_npy(folder / "a.npy", np.zeros((0, 7))), "a.npy"),
    "all zero": (
        lambda folder: write_npy(folder / "a.npy", np.zeros((31, 37), np.uint8)),
        "a.npy",
    ),
    "NaN": (lambda folder: write_npy(folder / "a.npy", np.full((31, 37), np.nan)), "a.npy"),
}


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_a_bad_image_is_one_clear_line(name, run_command, sample, tmp_path):
    make, says = BAD_IMAGES[name]
    if make is None:
        path = tmp_path / "cut.png"
        path.write_bytes(sample.read_bytes()[: sample.stat().st_size // 2])
    else:
        path = make(tmp_path)
    done = run_command("segment", path, "-o", tmp_path / "out", *FAST)
    assert done.code == 1
    (error,) = errors_in(done.err)
    assert says in error
    assert "Traceback" not in done.err
    assert files_in(tmp_path / "out") == []
    (line,) = (tmp_path / "out" / "journal.jsonl").read_text().splitlines()[1:]
    assert f"error: {json.loads(line)['error']}" == error


BAD_USAGE = {
    "empty folder": (lambda folder: (folder,), "no images here"),
    "glob without a match": (lambda folder: (folder / "*.png",), "no images here"),
    "unknown format": (lambda folder: ("SAMPLE", "--format", "tif,bmp"), "'bmp'"),
    "no runtime of that name": (lambda folder: ("SAMPLE", "--runtime", "abacus"), "abacus"),
    "score out of range": (lambda folder: ("SAMPLE", "--score", 1.5), "'score'"),
    "points out of range": (lambda folder: ("SAMPLE", "--points", 0), "'points_per_side'"),
    "resize is no number": (lambda folder: ("SAMPLE", "--resize", "big"), "--resize"),
    "no such part": (lambda folder: ("SAMPLE", "--shard", "5/4"), "--shard"),
    "two minds": (lambda folder: ("SAMPLE", "--resume", "--overwrite"), "one or the other"),
    "too many workers": (lambda folder: ("SAMPLE", "--workers", 65), "--workers"),
    "no bundle there": (lambda folder: ("SAMPLE", "-m", folder / "none"), "not a bundle"),
}


@pytest.mark.parametrize("name", BAD_USAGE)
def test_bad_usage_is_told_before_anything_is_written(name, run_command, sample, tmp_path):
    make, says = BAD_USAGE[name]
    (tmp_path / "in").mkdir()
    arguments = [sample if item == "SAMPLE" else item for item in make(tmp_path / "in")]
    done = run_command("segment", *arguments, "-o", tmp_path / "out")
    assert done.code == 2
    assert says in done.err
    assert len(done.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_output_that_is_not_a_folder(run_command, sample, tmp_path):
    (tmp_path / "file").write_text("kept")
    done = run_command("segment", sample, "-o", tmp_path / "file")
    assert done.code == 2
    assert "cannot write into this folder" in done.err
    assert (tmp_path / "file").read_text() == "kept"


def test_results_are_not_replaced_unasked(run_command, sample, tmp_path):
    kept = tmp_path / f"{sample.stem}_labels.tif"
    kept.write_text("kept")
    done = run_command("segment", sample, "-o", tmp_path)
    assert done.code == 2
    assert "--overwrite" in done.err
    assert kept.read_text() == "kept"
    done = run_command("segment", sample, "-o", tmp_path, "--overwrite", *FAST)
    assert done.code == 0, done.err
    assert tifffile.imread(kept).shape == (256, 256)


def test_the_same_command_goes_on_and_another_one_is_refused(run_command, sample, tmp_path):
    out = tmp_path / "out"
    shutil.copy(sample, tmp_path / "a.png")
    assert run_command("segment", tmp_path / "a.png", "-o", out, *FAST).code == 0
    shutil.copy(sample, tmp_path / "b.png")
    first = {name: (out / name).stat().st_mtime_ns for name in files_in(out)}
    done = run_command(
        "segment", tmp_path, "-o", out, *FAST, "--threads", 1, "--prompt-batch", 7, "--workers", 1
    )
    assert done.code == 0, done.err
    assert "2 of 2 images done (1 before)" in done.out
    assert {name: (out / name).stat().st_mtime_ns for name in first} == first
    done = run_command("segment", tmp_path, "-o", out, "--points", 5, "--format", "tif")
    assert done.code == 2
    (error,) = errors_in(done.err)
    assert "got formats tif, points_per_side 5" in error
    assert "expected formats csv+tif, points_per_side 6" in error
    assert "--overwrite" in error


def test_shards_divide_the_images(run_command, sample, tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    for name in ("a.png", "b.png", "c.png"):
        shutil.copy(sample, source / name)
    found = []
    for shard in ("1/2", "2/2"):
        out = tmp_path / shard[0]
        done = run_command(
            "segment", source, "-o", out, "--shard", shard, "--format", "csv", "--points", 2
        )
        assert done.code == 0, done.err
        found += [path.name for path in out.glob("*.csv")]
    assert sorted(found) == ["a_cells.csv", "b_cells.csv", "c_cells.csv"]


def test_images_of_one_name_are_refused(run_command, sample, tmp_path):
    shutil.copy(sample, tmp_path / "x.png")
    Image.open(sample).save(tmp_path / "x.bmp")
    done = run_command("segment", tmp_path, "-o", tmp_path / "out")
    assert done.code == 2
    assert "would write the same files" in done.err


def test_info_describes_and_checks(run_command, tiny_folder):
    done = run_command("info", "--json")
    assert done.code == 0
    assert json.loads(done.out)["parts"]["onnxruntime"]
    done = run_command("info", "tiny", "--json")
    described = json.loads(done.out)
    assert described["backbone"]["name"] == "tiny"
    assert described["bundle"] == str(tiny_folder)
