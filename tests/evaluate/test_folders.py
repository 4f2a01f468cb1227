"""Which files are compared, and what is said of those that are not."""

from __future__ import annotations

import re

import numpy as np
import pytest

from cellseg1_rt.errors import ConfigError
from cellseg1_rt.evaluate import evaluate_folders
from cellseg1_rt.formats import write_label_png, write_label_tiff

MAP = np.repeat([0, 1, 2, 0, 5], 7).reshape(5, 7)


def make(folder, names):
    folder.mkdir()
    for name in names:
        path = folder / name
        if name.endswith(".tif"):
            write_label_tiff(path, MAP)
        elif name.endswith(".png"):
            write_label_png(path, MAP)
        elif name.endswith(".npy"):
            np.save(path, MAP)
        else:
            path.write_text("no labels")
    return folder


# Name, predicted files, true files, names of pairs, {name: what is said}, files passed over.
CASES = [
    ("by stem", ["b.tif", "a.png"], ["a.npy", "b.png"], ["a", "b"], {}, []),
    ("as segment writes", ["a_labels.tif"], ["a.png"], ["a"], {}, []),
    ("tables, hidden files", ["a_labels.tif", "a_cells.csv", ".b.tif"], ["a.png"], ["a"], {}, []),
    (
        "overlays and images beside labels",
        ["a_labels.tif", "a_overlay.png", "a.png"],
        ["a.png"],
        ["a"],
        {},
        ["a.png", "a_overlay.png"],
    ),
    ("both called labels", ["a_labels.tif"], ["a_labels.png"], ["a"], {}, []),
    ("only the true ones called labels", ["a.tif"], ["a_labels.png"], ["a"], {}, []),
    ("written twice by segment", ["a_labels.png", "a_labels.tif"], ["a.png"], ["a"], {}, []),
    (
        "truth without prediction",
        ["a.tif"],
        ["a.png", "c.png"],
        ["a"],
        {"c": r"true/c\.png: a label file without a partner; got no file c\.\* or c_labels\.\* in"},
        [],
    ),
    (
        "prediction without truth",
        ["a.tif", "c_d.tif"],
        ["a.png"],
        ["a"],
        {"c_d": r"pred/c_d\.tif: a label file without a partner"},
        [],
    ),
    (
        "two of one name",
        ["a.tif", "a.png", "b.tif"],
        ["a.png", "b.png"],
        ["b"],
        {"a": r"pred/a: several label files of one name; got a\.png, a\.tif; expected one"},
        [],
    ),
    ("none pairs", ["a.tif"], ["b.tif"], [], {"a": "without a partner", "b": "without a"}, []),
]  # fmt: skip


@pytest.mark.parametrize(
    "preds, trues, paired, said, passed_over",
    [case[1:] for case in CASES],
    ids=[c[0] for c in CASES],
)
def test_pairing(preds, trues, paired, said, passed_over, tmp_path):
    found = evaluate_folders(make(tmp_path / "pred", preds), make(tmp_path / "true", trues))
    assert [image.pair.name for image in found.images] == paired
    assert all(image.figures.tp == 3 for image in found.images)
    assert [failure.name for failure in found.failures] == sorted(said)
    for failure in found.failures:
        assert re.search(said[failure.name], str(failure.error)), failure.error
        assert failure.error.exit_code == 1
    assert [path.name for path in found.passed_over] == passed_over
    assert (found.overall is None) == (not paired)


def test_an_image_of_another_size_fails_by_name(tmp_path):
    pred, true = (
        make(tmp_path / "pred", ["a.tif", "b.tif"]),
        make(tmp_path / "true", ["a.tif", "b.tif"]),
    )
    write_label_tiff(pred / "a.tif", MAP[:, :3])
    found = evaluate_folders(pred, true)
    assert [image.pair.name for image in found.images] == ["b"]
    (failure,) = found.failures
    assert str(failure.error) == (
        f"{pred / 'a.tif'}: labels of another size than the true ones; got 5×3; expected 5×7, the "
        f"size of {true / 'a.tif'}. Fix: segment at the labels' size, or stretch these labels "
        "without blending"
    )


def test_a_damaged_file_fails_by_name(tmp_path):
    pred, true = (
        make(tmp_path / "pred", ["a.png", "b.png"]),
        make(tmp_path / "true", ["a.png", "b.png"]),
    )
    (true / "b.png").write_bytes((true / "b.png").read_bytes()[:40])
    found = evaluate_folders(pred, true)
    assert [image.pair.name for image in found.images] == ["a"]
    assert [failure.name for failure in found.failures] == ["b"]
    assert str(true / "b.png") in str(found.failures[0].error)


def test_of_two_written_by_segment_the_tiff_counts(tmp_path):
    pred = make(tmp_path / "pred", ["a_labels.png", "a_labels.tif"])
    found = evaluate_folders(pred, make(tmp_path / "true", ["a.png"]))
    assert [image.pair.pred.name for image in found.images] == ["a_labels.tif"]


def test_two_files_need_not_have_one_name(tmp_path):
    folder = make(tmp_path / "in", ["x_labels.tif", "y.png"])
    found = evaluate_folders(folder / "x_labels.tif", str(folder / "y.png"))
    assert [image.pair.name for image in found.images] == ["y"]
    assert found.failures == ()
    missing = evaluate_folders(folder / "none.tif", folder / "y.png")
    assert missing.images == ()
    assert str(folder / "none.tif") in str(missing.failures[0].error)


BAD = {
    "a folder and a file": (("pred", "true/a.png"), "a folder can only be compared with a folder"),
    "no label files": (("pred", "empty"), "empty: no label files here; expected files ending in"),
    "not there": (("pred", "none"), "a folder can only be compared with a folder; .*"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_pair_of_folders(name, tmp_path):
    make(tmp_path / "pred", ["a.tif"])
    make(tmp_path / "true", ["a.png"])
    make(tmp_path / "empty", ["note.txt"])
    paths, says = BAD[name]
    with pytest.raises(ConfigError, match=says):
        evaluate_folders(*(tmp_path / path for path in paths))


def test_pooled_counts_and_means(tmp_path):
    pred, true = (
        make(tmp_path / "pred", ["a.tif", "b.tif"]),
        make(tmp_path / "true", ["a.tif", "b.tif"]),
    )
    write_label_tiff(pred / "a.tif", np.where(MAP == 1, 0, MAP))
    write_label_tiff(true / "b.tif", np.zeros_like(MAP))
    overall = evaluate_folders(pred, true).overall
    assert overall.average_precision == pytest.approx([(2 / 3 + 0) / 2] * 10)
    assert (overall.true, overall.predicted) == (3, 5)
    assert (overall.tp, overall.fp, overall.fn) == (2, 3, 1)
    assert (overall.missed, overall.false, overall.split, overall.merged) == (1, 3, 0, 0)
    assert overall.f1 == 4 / 8
    assert overall.mean_iou == 1.0
