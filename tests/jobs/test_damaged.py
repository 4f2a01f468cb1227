"""One damaged file in a hundred: all others are done, and each failure is named with its reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from job_harness import done_names, lines_of, run, write_images

COUNT = 200
REASONS = {"image17": "damaged", "image131": "not an image"}


@pytest.fixture
def images(tmp_path) -> Path:
    write_images(tmp_path / "in", COUNT)
    cut, other = (tmp_path / "in" / f"{name}.png" for name in REASONS)
    cut.write_bytes(cut.read_bytes()[:70])
    other.write_text("the text of a letter")
    return tmp_path / "in"


def require_all_others(folder: Path, told: list[str]) -> None:
    names = sorted(f"image{i}" for i in range(COUNT) if f"image{i}" not in REASONS)
    assert done_names(folder) == names
    labels = {path.name for path in folder.glob("*_labels.tif")}
    assert labels == {f"{name}_labels.tif" for name in names}
    failed = {line["name"]: line["error"] for line in lines_of(folder) if line["error"]}
    assert failed.keys() == REASONS.keys()
    for name, reason in REASONS.items():
        assert f"{name}.png" in failed[name]
        assert reason in failed[name]
        assert told.count(failed[name]) == 1
    summary = json.loads((folder / "job.json").read_text())
    assert (summary["done"], summary["failed"], summary["left"]) == (COUNT - 2, 2, 0)
    assert sorted(each["error"] for each in summary["failures"]) == sorted(failed.values())


def test_a_job_finishes_around_them(images, tmp_path):
    told: list[str] = []

    def report(outcome, tally) -> None:
        if outcome.error is not None:
            told.append(str(outcome.error))

    run(images, tmp_path / "out", workers=2, report=report)
    require_all_others(tmp_path / "out", told)


@pytest.mark.slow
def test_the_command_exits_with_1_and_names_them(run_command, images, tmp_path):
    done = run_command("segment", images, "-o", tmp_path / "out", "--points", 2)
    assert done.code == 1
    assert f"{COUNT - 2} of {COUNT} images done" in done.out
    told = [line.removeprefix("error: ") for line in done.err.splitlines() if "error: " in line]
    require_all_others(tmp_path / "out", told)
