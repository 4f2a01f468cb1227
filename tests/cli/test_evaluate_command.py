"""``evaluate`` as a person uses it: what it prints and writes, and what it says when it cannot."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import typer
from evaluate_scene import TRUE, make_folders

from cellseg1_rt.cli import main as command_line
from cellseg1_rt.cli.evaluate import evaluate
from cellseg1_rt.evaluate import THRESHOLDS
from cellseg1_rt.formats import write_label_png, write_label_tiff


@pytest.fixture
def run(run_command, monkeypatch):
    """``cellseg1-rt evaluate ARGUMENTS``, through the same ``main``."""
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(evaluate)
    monkeypatch.setattr(command_line, "app", app)
    return run_command


def rows_of(out):
    """{first word of a printed line: the others}"""
    return {words[0]: words[1:] for line in out.splitlines() if (words := line.split())}


def test_prints_a_row_an_image_and_the_means(run, tmp_path):
    pred, true, _ = make_folders(tmp_path)
    done = run(pred, true)
    assert (done.code, done.err) == (0, "")
    rows = rows_of(done.out)
    for name, figures in {
        "image": "@0.5 @0.75 AP true pred TP FP FN F1 IoU missed false split merged",
        "fine": "1.000 1.000 1.000 5 5 5 0 0 1.000 1.000 0 0 0 0",
        "wrong": "0.000 0.000 0.000 5 2 0 2 5 0.000 – 5 2 0 0",
        "missing": "0.600 0.600 0.600 5 3 3 0 2 0.750 1.000 2 0 0 0",
        "cut": "0.714 0.333 0.448 5 7 5 2 0 0.833 0.859 0 0 2 0",
        "joined": "0.500 0.500 0.500 5 4 3 1 2 0.667 1.000 0 0 0 1",
    }.items():
        assert " ".join(rows[name]) == figures
    assert rows["all"][3:5] == ["25", "21"]
    assert "5 of 5 images evaluated" in done.out
    thresholds, precisions = done.out.splitlines()[-3:-1]
    assert thresholds.split() == [f"{threshold:.2f}" for threshold in THRESHOLDS]
    assert precisions.split()[0] == rows["all"][0]


def test_json_has_the_documented_layout(run, tmp_path):
    pred, true, _ = make_folders(tmp_path)
    (pred / "cut_labels.tif").unlink()
    done = run(pred, true, "--json")
    assert done.code == 1
    found = json.loads(done.out)
    assert list(found) == [
        "version", "pred", "true", "thresholds", "overall", "images", "failures", "passed_over",
    ]  # fmt: skip
    assert found["version"] == 1
    assert found["thresholds"] == [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]
    assert [image["name"] for image in found["images"]] == ["fine", "joined", "missing", "wrong"]
    figures = [
        "average_precision", "mean_average_precision", "f1", "mean_iou", "true", "predicted",
        "tp", "fp", "fn", "missed", "false", "split", "merged",
    ]  # fmt: skip
    assert list(found["images"][0]) == ["name", "pred", "true", "figures"]
    assert list(found["images"][0]["figures"]) == figures
    assert list(found["overall"]) == ["images", *figures]
    assert found["images"][3]["figures"]["mean_iou"] is None
    assert [failure["name"] for failure in found["failures"]] == ["cut"]
    assert found["failures"][0]["error"] in done.err


def test_failures_are_named_at_the_end_and_the_rest_is_evaluated(run, tmp_path):
    pred, true, _ = make_folders(tmp_path)
    write_label_tiff(pred / "cut_labels.tif", TRUE[:, :7])
    write_label_tiff(pred / "lonely_labels.tif", TRUE)
    (pred / "wrong_labels.tif").write_bytes(b"nothing")
    done = run(pred, true)
    assert done.code == 1
    assert "3 of 6 images evaluated" in done.out
    lines = done.err.splitlines()
    assert len(lines) == 3
    for line, says in zip(lines, ("cut_labels.tif", "lonely_labels.tif", "wrong"), strict=True):
        assert line.startswith("error: ")
        assert says in line


def test_nothing_evaluated(run, tmp_path):
    write_label_png(tmp_path / "a.png", TRUE)
    done = run(tmp_path / "none.png", tmp_path / "a.png")
    assert done.code == 1
    assert done.out == "0 of 1 images evaluated\n"
    assert str(tmp_path / "none.png") in done.err
    done = run(tmp_path / "none.png", tmp_path / "a.png", "--json")
    assert json.loads(done.out)["overall"] is None


def test_report_is_written_and_replaced(run, tmp_path):
    pred, true, images = make_folders(tmp_path)
    report = tmp_path / "new" / "report.html"
    done = run(pred, true, "--images", images, "--report", report)
    assert (done.code, done.err) == (0, "")
    assert f"report: {report}" in done.out
    first = report.read_bytes()
    assert first.count(b"data:image/jpeg") == 5
    done = run(pred, true, "--report", report)
    assert done.code == 0
    assert report.read_bytes() != first
    assert [path.name for path in report.parent.iterdir()] == ["report.html"]


def test_two_files_and_their_image(run, tmp_path):
    pred, true, images = make_folders(tmp_path)
    report = tmp_path / "report.html"
    files = (pred / "cut_labels.tif", true / "cut.png", "--images", images / "joined.png")
    done = run(*files, "--report", report)
    assert done.code == 0, done.err
    assert report.read_text(encoding="utf-8").count("data:image/jpeg") == 1


def test_an_image_that_cannot_be_read_is_an_error_beside_the_report(run, tmp_path):
    pred, true, images = make_folders(tmp_path)
    (images / "cut.png").unlink()
    done = run(pred, true, "--images", images, "--report", tmp_path / "r.html")
    assert done.code == 1
    assert "5 of 5 images evaluated" in done.out
    assert done.err.startswith("error: cut: not one image of this name")
    assert (tmp_path / "r.html").exists()


def test_files_passed_over_are_said(run, tmp_path):
    pred, true, images = make_folders(tmp_path)
    for path in images.iterdir():
        path.rename(pred / path.name)
    done = run(pred, true)
    assert done.code == 0
    assert done.err == (
        "note: passed over 5 files not called NAME_labels.* beside ones that are, the first being "
        f"{pred / 'cut.png'}\n"
    )


def test_many_images_print_the_worst_only(run, tmp_path):
    for side in ("pred", "true"):
        (tmp_path / side).mkdir()
        for number in range(61):
            labels = np.ones((3, 5), int)
            labels[:, number % 4 :] *= side == "true"
            np.save(tmp_path / side / f"[b]{number:02}.npy", labels)
    done = run(tmp_path / "pred", tmp_path / "true")
    assert done.code == 0
    assert "shown: the 50 of 61 images with the lowest AP@0.5" in done.out
    rows = [line.split() for line in done.out.splitlines() if line.lstrip().startswith("[b]")]
    assert len(rows) == 50
    assert rows == sorted(rows)
    assert sum(row[1] == "0.000" for row in rows) == 46


BAD_USAGE = {
    "images without a report": (("pred", "true", "--images", "images"), "--images: only used for"),
    "images that are not there": (
        ("pred", "true", "--images", "none", "--report", "r.html"),
        "--images: not there",
    ),
    "report of another kind": (("pred", "true", "--report", "r.tif"), "not a name for a report"),
    "folder and file": (("pred", "true/fine.png"), "a folder can only be compared with a folder"),
    "no labels there": (("empty", "true"), "no label files here"),
}


@pytest.mark.parametrize("name", BAD_USAGE)
def test_bad_usage_is_one_line(name, run, tmp_path):
    make_folders(tmp_path)
    (tmp_path / "empty").mkdir()
    arguments, says = BAD_USAGE[name]
    done = run(*(item if item.startswith("--") else tmp_path / item for item in arguments))
    assert done.code == 2
    assert says in done.err
    assert len(done.err.splitlines()) == 1
    assert not (tmp_path / "r.html").exists()


def test_the_code_of_the_document_runs(tmp_path, monkeypatch, capsys):
    document = Path(__file__).parents[2] / "docs" / "evaluate.md"
    (block,) = re.findall(r"```python\n(.*?)```", document.read_text(encoding="utf-8"), flags=re.S)
    pred, true, _ = make_folders(tmp_path)
    pred.rename(tmp_path / "results")
    true.rename(tmp_path / "labels")
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "evaluate.md", "exec"), {})  # our own text, run as a reader would
    assert capsys.readouterr().out == "0.563 []\n"
    assert (tmp_path / "report.html").exists()
