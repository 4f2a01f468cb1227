"""The report's text, without a browser: what it holds, escapes, leaves out and repeats exactly."""

from __future__ import annotations

import io
import re
from base64 import b64decode

import numpy as np
import pytest
from evaluate_scene import TRUE, make_folders
from PIL import Image

from cellseg1_rt.errors import ConfigError, InputError
from cellseg1_rt.evaluate import evaluate_folders
from cellseg1_rt.evaluate.pictures import picture_from_labels
from cellseg1_rt.evaluate.report import write_report


@pytest.fixture
def found(tmp_path):
    return evaluate_folders(*make_folders(tmp_path)[:2])


def report_of(found, folder, **options):
    failures = write_report(folder / "report.html", found, **options)
    return (folder / "report.html").read_text(encoding="utf-8"), failures


def test_all_get_rows_and_the_worst_get_pictures(found, tmp_path):
    page, failures = report_of(found, tmp_path, pictures=2)
    assert failures == ()
    assert page.count('<th scope="row">') == len(found.images) == 5
    pictured = re.findall(r"<figcaption><strong>(.*?)</strong>", page)
    assert pictured == ["wrong", "joined"]
    assert "the 2 of 5 with the lowest AP" in page
    assert page.count('href="#picture-1"') == page.count('id="picture-1"') == 1


def test_equal_inputs_give_equal_bytes(found, tmp_path):
    images = make_folders(tmp_path / "again")[2]
    first, _ = report_of(found, tmp_path, images=images)
    second, _ = report_of(found, tmp_path, images=images)
    assert first == second
    assert len(first.encode()) < 400_000


def test_names_are_escaped(tmp_path):
    pred, true, images = make_folders(tmp_path)
    name = "<img src=x onerror=alert(1)> & 'b\""
    for folder, ending in ((pred, "_labels.tif"), (true, ".png"), (images, ".png")):
        (folder / f"fine{ending}").rename(folder / f"{name}{ending}")
    np.save(true / "<b>.npy", TRUE)
    page, _ = report_of(evaluate_folders(pred, true), tmp_path, images=images)
    assert "&lt;img src=x onerror=alert(1)&gt; &amp; &#x27;b&quot;" in page
    assert "<img src=x" not in page
    assert "<b>" not in page


def test_what_was_not_evaluated_is_listed(tmp_path):
    pred, true, _ = make_folders(tmp_path)
    (pred / "cut_labels.tif").unlink()
    page, _ = report_of(evaluate_folders(pred, true), tmp_path)
    assert "Not evaluated: 1" in page
    assert "cut.png: a label file without a partner" in page


def test_nothing_evaluated_is_a_report_too(tmp_path):
    pred, true, _ = make_folders(tmp_path)
    for path in true.iterdir():
        path.rename(true / f"other_{path.name}")
    page, _ = report_of(evaluate_folders(pred, true), tmp_path)
    assert "No image could be evaluated." in page
    assert "Not evaluated: 10" in page


def test_an_image_that_cannot_be_shown(found, tmp_path):
    images = make_folders(tmp_path / "again")[2]
    (images / "wrong.png").unlink()
    (images / "cut.png").write_bytes(b"no image")
    np.save(images / "fine.npy", np.full((5, 7), np.nan))
    (images / "fine.png").unlink()
    page, failures = report_of(found, tmp_path, images=images)
    assert [failure.name for failure in failures] == ["wrong", "cut", "fine"]
    assert "wrong: not one image of this name; got none" in str(failures[0].error)
    assert page.count("The image cannot be shown: ") == 3
    assert page.count("data:image/png") == 3
    assert page.count("data:image/jpeg") == 2


def test_a_stretched_image_is_said_so(found, tmp_path):
    images = make_folders(tmp_path / "again")[2]
    with Image.open(images / "wrong.png") as image:
        image.resize((41, 31)).save(images / "wrong.png")
    page, failures = report_of(found, tmp_path, images=images)
    assert failures == ()
    assert page.count("is stretched to theirs") == 1


@pytest.mark.parametrize("name", ["report.txt", "labels.tif", "folder.html"])
def test_what_is_no_name_for_a_report(name, found, tmp_path):
    (tmp_path / "folder.html").mkdir()
    (tmp_path / "labels.tif").write_text("kept")
    with pytest.raises(ConfigError, match="not a name for a report"):
        write_report(tmp_path / name, found)
    assert (tmp_path / "labels.tif").read_text() == "kept"


def pixels_of(picture):
    data = b64decode(picture.data_uri.partition(",")[2])
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == (picture.width, picture.height)
        return np.array(image)


@pytest.mark.parametrize(
    "shape", [(31, 41), (41, 31, 1), (31, 41, 2), (1511, 37, 3), (3, 1009, 4)], ids=str
)
@pytest.mark.parametrize("dtype", ["u1", "u2", "f4", "?"])
def test_any_image_becomes_a_small_picture(shape, dtype):
    rng = np.random.default_rng(5)
    levels = rng.random(shape)
    image = levels > 0.5 if dtype == "?" else (levels * 255).astype(dtype) - (dtype == "f4")
    labels = np.ones(shape[:2], int)
    picture = picture_from_labels(labels, labels, image)
    assert max(picture.width, picture.height) == 640
    assert pixels_of(picture).std() > 5


@pytest.mark.parametrize("level", [0, 7, 60_000])
def test_a_constant_image_is_shown(level):
    image = np.full((31, 41), level, np.uint16)
    assert pixels_of(picture_from_labels(TRUE, TRUE, np.resize(image, TRUE.shape))).max() <= 1


def test_an_image_that_is_not_finite():
    with pytest.raises(InputError, match="not finite"):
        picture_from_labels(TRUE, TRUE, np.full(TRUE.shape, np.inf))


def numbers(data):
    """The absolute points of path data."""
    points = []
    for piece in data.split("M")[1:]:
        start, _, steps = piece.removesuffix("z").partition("l")
        path = [np.array(start.split(), float)]
        path += [np.array(step, float) for step in zip(*[iter(steps.split())] * 2, strict=True)]
        points.append(np.cumsum(path, axis=0))
    return points


def test_outlines_lie_on_the_cells_they_are_of():
    true = np.zeros((32, 64), int)
    true[4:12, 8:24] = 70_000
    true[20:21, 40:41] = 3
    picture = picture_from_labels(np.zeros_like(true), true)
    assert (picture.width, picture.height) == (640, 320)
    dot, box = numbers(picture.outlines["missed"].cells)
    np.testing.assert_allclose(dot, [[405, 205]] * len(dot))
    np.testing.assert_allclose(box.min(axis=0), [85, 45])
    np.testing.assert_allclose(box.max(axis=0), [235, 115])
    assert picture.outlines["missed"].letters_at[0] == (405, 205)
    for kind in ("matched", "false", "split", "merged"):
        assert picture.outlines[kind].cells == ""


def test_letters_of_a_small_cell_stand_above_it():
    true = np.zeros((320, 640), int)
    true[100:103, 50:53] = 1
    true[0:3, 90:93] = 2
    picture = picture_from_labels(np.zeros_like(true), true)
    assert picture.outlines["missed"].letters_at == ((52, 90), (92, 9))


def test_each_kind_is_drawn_as_such():
    scene = np.zeros((7, 70), int)
    true, pred = scene.copy(), scene.copy()
    true[:, :9], pred[:, :9] = 1, 1  # matched
    true[:, 10:19] = 2  # missed
    pred[:, 20:29] = 3  # false
    true[:, 30:39], pred[:, 30:34], pred[:, 34:39] = 4, 4, 5  # split
    true[:, 40:44], true[:, 44:49], pred[:, 40:49] = 6, 7, 7  # merged
    outlines = picture_from_labels(pred, true).outlines
    at = {kind: numbers(one.cells)[0].mean(axis=0)[0] for kind, one in outlines.items()}
    scale = 640 / 70
    for number, kind in enumerate(("matched", "missed", "false", "split", "merged")):
        assert at[kind] == pytest.approx((10 * number + 4.5) * scale, abs=0.1)
        parts = numbers(outlines[kind].parts)
        assert len(parts) == (2 if kind in ("split", "merged") else 0)
        assert len(outlines[kind].letters_at) == (kind != "matched")
