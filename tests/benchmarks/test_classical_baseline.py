"""The classical baseline: its steps on drawn shapes, all of it on the packaged samples."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from cellseg1_rt.bundles import SAMPLES
from cellseg1_rt.evaluate import average_precision

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "classical_baseline.py"


@pytest.fixture(scope="module")
def baseline() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("classical_baseline", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    threads = cv2.getNumThreads()
    yield module
    cv2.setNumThreads(threads)
    del sys.modules[spec.name]


def disks(*circles: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Disks (x, y, radius) of 1 in a picture of 83×131 px."""
    mask = np.zeros((83, 131), np.uint8)
    for x, y, radius in circles:
        cv2.circle(mask, (x, y), radius, 1, -1)
    return mask


def test_grid_is_large_and_without_repeats(baseline):
    assert len(baseline.GRID) >= 50
    assert len({str(setting) for setting in baseline.GRID}) == len(baseline.GRID)


@pytest.mark.parametrize("kind, amount", [("otsu", 1.0), ("otsu-of-root", 1.0), ("local", 51)])
def test_foreground_is_what_is_bright_without_small_holes(baseline, kind: str, amount: float):
    mask = disks((30, 40, 13), (90, 40, 17))
    grey = np.where(mask, 200, 20).astype(np.float32)
    grey[38:41, 28:31] = 20
    np.testing.assert_array_equal(baseline.foreground(grey, kind, amount), mask)


def test_h_maxima_are_those_that_stand_out_by_h(baseline):
    """Three hills of one ridge: 9 high, 7 high beyond a pass of 4, 6 high beyond one of 5."""
    ridge = np.array([0, 5, 9, 5, 4, 6, 7, 5, 6, 3, 0], np.float32)
    distance = np.zeros((5, len(ridge)), np.float32)
    distance[2] = ridge
    for height, expected in ((0.75, [2, 6, 8]), (1.5, [2, 6]), (3.5, [2])):
        seeds = baseline.find_seeds(distance, "h-maxima", height)
        assert np.flatnonzero(seeds[2]).tolist() == expected
        assert seeds.max() == len(expected)
        assert not np.delete(seeds, 2, axis=0).any()


def test_peaks_are_highest_in_their_window(baseline):
    distance = np.zeros((7, 23), np.float32)
    distance[3, [4, 8, 15]] = 5, 4, 3
    for half, expected in ((3, [4, 8, 15]), (5, [4, 15]), (7, [4])):
        seeds = baseline.find_seeds(distance, "peaks", half)
        assert np.flatnonzero(seeds[3]).tolist() == expected


@pytest.mark.parametrize("seeds", [("h-maxima", 1.5), ("peaks", 9)])
def test_touching_disks_are_cut_at_their_neck(baseline, seeds: tuple[str, float]):
    """Radii 25 and 12 with centres 30 px apart: the circles cross 23 px right of the first."""
    mask = disks((40, 40, 25), (70, 40, 12), (110, 60, 11))
    distance = cv2.distanceTransform(mask, cv2.DIST_L2, 5)
    labels = baseline.divide(mask, distance, baseline.find_seeds(distance, *seeds))
    np.testing.assert_array_equal(labels > 0, mask > 0)
    assert len(np.unique(labels)) == 4
    large, small, alone = labels[40, 40], labels[40, 75], labels[60, 110]
    assert len({large, small, alone}) == 3
    neck = int(np.flatnonzero(labels[40] == small)[0])
    assert abs(neck - 63) <= 1
    np.testing.assert_array_equal(labels == alone, disks((110, 60, 11)) > 0)


def test_without_seeds_objects_stay_whole(baseline):
    mask = disks((40, 40, 25), (70, 40, 12), (110, 60, 11))
    distance = cv2.distanceTransform(mask, cv2.DIST_L2, 5)
    labels = baseline.divide(mask, distance, baseline.find_seeds(distance, "none", 0))
    assert len(np.unique(labels)) == 3
    np.testing.assert_array_equal(labels > 0, mask > 0)


def test_shared_work_changes_nothing(baseline):
    """Settings one by one, and together in any order, give the same maps."""
    grey = baseline.read_grey(SAMPLES / "images" / "27c30f901149.png")
    order = np.random.default_rng(3).permutation(len(baseline.GRID))[:11]
    chosen = [baseline.GRID[index] for index in order]
    together = list(baseline.segment(grey, chosen))
    ordered = sorted(order)
    maps = baseline.segment(grey, [baseline.GRID[index] for index in ordered])
    again = dict(zip(ordered, maps, strict=True))
    for index, setting, labels in zip(order, chosen, together, strict=True):
        (alone,) = baseline.segment(grey, [setting])
        np.testing.assert_array_equal(labels, alone)
        np.testing.assert_array_equal(labels, again[index])
        areas = np.bincount(labels.ravel())[1:]
        assert areas[areas > 0].min() >= setting.min_area_px


def test_tunes_and_reports_on_the_samples(
    baseline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    good = baseline.Setting(1.0, "otsu", 0.85, "h-maxima", 0.75, 20)
    bad = baseline.Setting(2.0, "otsu", 1.0, "none", 0, 5000)
    run = baseline.run
    monkeypatch.setattr(baseline, "run", lambda arguments: run(arguments, [bad, good]))
    for name in ("nuclei_a", "nuclei_b", "left_out"):
        shutil.copytree(SAMPLES, tmp_path / "domains" / name)
    output = tmp_path / "new" / "figures.json"
    line = f"--tune {SAMPLES} --test {tmp_path / 'domains'} --only nuclei_* --every 2 --limit 3"
    baseline.main([*line.split(), "--json", str(output)])
    result = json.loads(output.read_text())
    assert result["tuned_on"]["images"] == 3
    assert result["tuned_on"]["settings"] == 2
    assert baseline.Setting(**result["best"]) == good
    assert result["grid"][str(good)] == result["tuned_on"]["ap50"] > result["grid"][str(bad)]
    assert list(result["domains"]) == ["nuclei_a", "nuclei_b"]
    domain = result["domains"]["nuclei_a"]
    for image, (path, labels) in zip(
        domain["images"], baseline.find_pairs(SAMPLES, limit=3), strict=True
    ):
        assert image == path.stem
        (found,) = baseline.segment(baseline.read_grey(path), [good])
        expected = average_precision(found, baseline.read_labels(labels))
        assert domain["images"][image] == pytest.approx(expected, abs=1e-4)
    assert domain["ap50"] == pytest.approx(np.mean(list(domain["images"].values())), abs=1e-4)
    assert domain["ap50"] > 0.4
    assert str(tmp_path) not in output.read_text()
    printed = capsys.readouterr().out
    assert f"best of 2 on 3 images: AP@0.5 {result['tuned_on']['ap50']:.3f}" in printed
    assert str(good) in printed


def test_a_folder_without_pairs_ends_with_a_line(
    baseline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit) as caught:
        baseline.main(["--tune", str(tmp_path), "--test", str(tmp_path)])
    assert caught.value.code == 1
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}: no images with labels")


def test_committed_figures_are_of_the_committed_grid(baseline):
    path = SCRIPT.parent / "results" / "classical_baseline.json"
    result = json.loads(path.read_text())
    assert list(result["grid"]) == [str(setting) for setting in baseline.GRID]
    best = str(baseline.Setting(**result["best"]))
    assert result["grid"][best] == max(result["grid"].values()) == result["tuned_on"]["ap50"]
