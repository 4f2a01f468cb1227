"""What is trained on: pairs from folders, the split, and samples with their prompts."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cellseg1_rt.bundles import SAMPLES
from cellseg1_rt.errors import InputError
from cellseg1_rt.train import pretrain_data as module
from cellseg1_rt.train.pretrain_data import (
    SMALLEST_CELL_PX,
    Pair,
    Sample,
    TrainingSet,
    draw_sample,
    read_pairs,
    split_pairs,
    whole_image_sample,
)
from cellseg1_rt.train.pretrain_points import count_of_positives


def disks(height: int, width: int, seed: int, count: int = 5) -> NDArray[np.int32]:
    rng = np.random.default_rng(seed)
    labels = np.zeros((height, width), np.int32)
    for label in range(1, count + 1):
        centre = (int(rng.integers(1, width - 1)), int(rng.integers(1, height - 1)))
        cv2.circle(labels, centre, int(rng.integers(5, 9)), 3 * label, -1)
    return labels


def pair(height: int, width: int, seed: int) -> Pair:
    labels = disks(height, width, seed)
    noise = np.random.default_rng(seed).integers(0, 40, labels.shape)
    grey = (np.where(labels > 0, 180, 30) + noise).astype(np.uint8)
    return Pair(f"p{seed}", f"{seed:064x}", np.repeat(grey[..., None], 3, axis=2), labels)


def write_pair(folder: Path, name: str, seed: int, suffix: str = ".png") -> None:
    """A grey picture that min-max normalisation leaves as it is, and its labels."""
    drawn = pair(47, 59, seed)
    grey = drawn.image[..., 0].copy()
    grey[0, :2] = 0, 255
    for part, pixels in (("images", grey), ("labels", drawn.labels.astype(np.uint16))):
        (folder / part).mkdir(parents=True, exist_ok=True)
        ending = suffix if part == "images" else ".png"
        Image.fromarray(pixels).save(folder / part / f"{name}{ending}")


def sampled(
    pairs: list[Pair],
    key: tuple[int, ...],
    size: int = 64,
    points: int = 13,
    synthetic: float = 0.5,
    full_size: int = 112,
) -> Sample:
    return draw_sample(
        TrainingSet(pairs),
        key,
        window_px=size,
        image_size=full_size,
        points=points,
        synthetic_share=synthetic,
    )


def equal(one: Sample, other: Sample) -> bool:
    return (one.size, one.origin) == (other.size, other.origin) and all(
        np.array_equal(getattr(one, name), getattr(other, name))
        for name in ("image", "labels", "points_xy", "cell")
    )


PAIRS = [pair(71, 53, 2), pair(61, 97, 3), pair(109, 101, 5)]


def require_sound(sample: Sample, size: int) -> None:
    height, width = sample.size
    assert (sample.image.dtype, sample.image.shape) == (np.uint8, (size, size, 3))
    assert (sample.labels.dtype, sample.labels.shape) == (np.int32, (size, size))
    assert 0 < height <= size
    assert 0 < width <= size
    assert not sample.image[height:].any()
    assert not sample.image[:, width:].any()
    assert not sample.labels[height:].any()
    assert not sample.labels[:, width:].any()
    areas = np.bincount(sample.labels.ravel())[1:]
    assert areas[areas > 0].min() >= SMALLEST_CELL_PX
    assert (sample.points_xy.dtype, sample.cell.dtype) == (np.float32, np.int32)
    x, y = sample.points_xy.astype(int).T
    assert (x < width).all()
    assert (y < height).all()
    np.testing.assert_array_equal(sample.points_xy, np.stack([x, y], axis=1))
    for column, row, cell, under in zip(x, y, sample.cell, sample.labels[y, x], strict=True):
        if under != cell:  # just beside a small cell, and in no other
            around = sample.labels[max(0, row - 2) : row + 3, max(0, column - 2) : column + 3]
            assert under == 0
            assert cell in around
            assert areas[cell - 1] < math.pi / 4 * 16**2


@pytest.mark.parametrize("synthetic", [0.0, 1.0], ids=["real", "synthetic"])
@pytest.mark.parametrize("size", [48, 112])
def test_samples_are_sound(synthetic: float, size: int):
    padded = 0
    for step in range(15):
        sample = sampled(PAIRS, (7, step, 0), size=size, synthetic=synthetic)
        require_sound(sample, size)
        assert len(sample.cell) == 13
        assert np.count_nonzero(sample.cell) == 8  # 60 % of 13
        assert (sample.cell[:8] > 0).all()
        padded += sample.size != (size, size)
    assert padded == 0 if synthetic else padded > 0


@pytest.mark.parametrize("points", [1, 2, 23])
def test_number_of_points(points: int):
    for step in range(5):
        sample = sampled(PAIRS, (1, step), points=points)
        assert sample.points_xy.shape == (points, 2)
        assert np.count_nonzero(sample.cell) == count_of_positives(points)
    assert count_of_positives(points) == max(1, round(0.6 * points))


def test_a_window_full_of_cells_has_all_points_in_cells():
    labels = np.ones((61, 61), np.int32)
    labels[:, 30:] = 2
    full = Pair("full", "ab" * 32, np.full((61, 61, 3), 90, np.uint8), labels)
    sample = whole_image_sample(full, 64, points=11)
    assert sample.points_xy.shape == (11, 2)
    assert (sample.cell > 0).all()


def test_padding_is_not_near_a_cell():
    """Points near the padding's edge are as far from cells as they look."""
    labels = np.zeros((40, 100), np.int32)
    labels[2:8, 2:8] = 1
    wide = Pair("wide", "cd" * 32, np.full((40, 100, 3), 90, np.uint8), labels)
    sample = whole_image_sample(wide, 96, points=400)
    away = cv2.distanceTransform((sample.labels == 0).astype(np.uint8), cv2.DIST_L2, 5)
    x, y = sample.points_xy[sample.cell == 0].astype(int).T
    near = away[y, x] <= 12.5
    assert 0.4 <= near.mean() < 0.6
    assert (y[near] < 25).all()


def test_windows_lie_anywhere_in_the_frame():
    origins = {sampled(PAIRS, (3, step), size=64, full_size=112).origin for step in range(80)}
    assert {axis for origin in origins for axis in origin} == {0, 1, 2, 3}
    assert sampled(PAIRS, (3, 0), size=112, full_size=112).origin == (0, 0)


def test_rare_sizes_and_crowded_pictures_are_drawn_more():
    """Three of one size with 5 cells, one of another with 5, one of that with 1."""
    alike = [pair(71, 53, seed) for seed in (2, 3, 5)]
    rare = pair(61, 97, 3)
    lonely = Pair("lonely", "ef" * 32, rare.image, np.where(rare.labels == 3, 3, 0))
    training = TrainingSet([*alike, rare, lonely])
    rng = np.random.default_rng(7)
    drawn = [training.draw(rng).name for _ in range(4000)]
    values = [len(np.unique(p.labels)) for p in training.pairs]
    weights = np.sqrt([values[0] / 3, values[1] / 3, values[2] / 3, values[3] / 2, values[4] / 2])
    shares = [drawn.count(p.name) / 4000 for p in (alike[2], lonely)]
    expected = [weights[2] / weights.sum(), weights[4] / weights.sum()]
    assert drawn.count("p3") > drawn.count("p5")  # p3 names one of the three and the rare one
    assert shares == pytest.approx(expected, abs=0.03)


def test_more_points_than_cells_share_them_and_fewer_take_one_each():
    alone = pair(61, 61, 11)
    labels = np.zeros_like(alone.labels)
    labels[20:40, 20:40] = 9
    one_cell = Pair("one", alone.digest, alone.image, labels)
    sample = whole_image_sample(one_cell, 64, points=17)
    assert set(sample.cell.tolist()) == {0, 9}
    many = sampled([], (3, 7), size=256, full_size=256, points=11, synthetic=1.0)
    inside = many.cell[many.cell > 0]
    assert len(np.unique(many.labels)) > 8
    assert len(set(inside.tolist())) == len(inside)


def test_points_by_small_cells_lie_in_them_or_just_beside():
    """Of small cells far apart: in the cell, or off it by up to 2 px each way."""
    labels = np.zeros((96, 96), np.int32)
    for number, (y, x) in enumerate(((10, 12), (40, 70), (80, 30)), start=1):
        labels[y : y + 5, x : x + 5] = number
    labels[50:80, 60:90] = 7
    drawn = Pair("small", "12" * 32, np.full((96, 96, 3), 90, np.uint8), labels)
    sample = whole_image_sample(drawn, 96, points=500)
    x, y = sample.points_xy.astype(int).T
    distance = {
        cell: cv2.distanceTransform((labels != cell).astype(np.uint8), cv2.DIST_C, 3)
        for cell in (1, 2, 3, 7)
    }
    for cell in (1, 2, 3):
        off = distance[cell][y[sample.cell == cell], x[sample.cell == cell]]
        assert set(off) == {0, 1, 2}
    assert not distance[7][y[sample.cell == 7], x[sample.cell == 7]].any()
    away = cv2.distanceTransform((labels % 7 == 0).astype(np.uint8), cv2.DIST_L2, 5)
    background = sample.cell == 0
    assert away[y[background], x[background]].min() > 2
    assert cv2.distanceTransform((labels == 0).astype(np.uint8), cv2.DIST_L2, 5)[
        y[background], x[background]
    ].min() == pytest.approx(2, abs=0.5)


def test_a_point_never_moves_into_a_neighbour():
    labels = np.zeros((64, 64), np.int32)
    labels[20:26, 20:26], labels[20:26, 26:32] = 1, 2
    drawn = Pair("touching", "34" * 32, np.full((64, 64, 3), 90, np.uint8), labels)
    sample = whole_image_sample(drawn, 64, points=300)
    x, y = sample.points_xy.astype(int).T
    assert set(labels[y, x][sample.cell == 1]) == {0, 1}
    assert set(labels[y, x][sample.cell == 2]) == {0, 2}


def test_background_points_prefer_what_stands_out():
    """Debris on a twentieth of the background gets far more than its share of the points."""
    labels = np.zeros((128, 128), np.int32)
    labels[4:24, 4:24] = 1
    grey = np.full((128, 128), 40, np.uint8)
    grey[labels > 0], grey[90:120, 90:120] = 200, 70
    drawn = Pair("debris", "56" * 32, np.repeat(grey[..., None], 3, axis=2), labels)
    sample = whole_image_sample(drawn, 128, points=500)
    x, y = sample.points_xy[sample.cell == 0].astype(int).T
    assert 0.2 < np.mean(grey[y, x] == 70) < 0.45


@pytest.mark.parametrize("count", [1, 5])
def test_some_crops_are_shrunk_to_small_cells(monkeypatch: pytest.MonkeyPatch, count: int):
    monkeypatch.setattr(module, "SHRUNK_SHARE", 1.0)
    labels = np.zeros((211, 307), np.int32)
    for label in range(count):
        cv2.circle(labels, (40 + 55 * label, 100), 20, label + 1, -1)
    grey = np.where(labels > 0, 200, 20).astype(np.uint8)
    drawn = Pair("large", "78" * 32, np.repeat(grey[..., None], 3, axis=2), labels)
    diameters = []
    for step in range(25):
        sample = sampled([drawn], (43, step), size=128, full_size=512, synthetic=0.0)
        areas = np.bincount(sample.labels.ravel())[1:]
        diameters.append(np.sqrt(np.median(areas[areas > 0]) * 4 / np.pi))
    assert 6 < min(diameters) < 9
    assert 11 < max(diameters) < 15.5


def test_many_of_the_background_points_are_near_cells():
    near, background = 0, 0
    for step in range(20):
        sample = sampled(PAIRS[2:], (13, step), size=64, full_size=256, points=40, synthetic=0.0)
        assert sample.size == (64, 64)
        away = cv2.distanceTransform((sample.labels == 0).astype(np.uint8), cv2.DIST_L2, 5)
        x, y = sample.points_xy[sample.cell == 0].astype(int).T
        assert (away[y, x] > 1).all()
        near += np.count_nonzero(away[y, x] <= 12.5)
        background += len(x)
    assert near >= 0.4 * background


def test_one_key_one_sample():
    keys = [(7, 0, 0), (7, 0, 1), (7, 1, 0), (8, 0, 0)]
    first = [sampled(PAIRS, key) for key in keys]
    again = [sampled(PAIRS, key) for key in reversed(keys)][::-1]
    for i, one in enumerate(first):
        assert [equal(one, other) for other in again] == [i == j for j in range(len(keys))]


def test_drawing_leaves_the_pairs_alone():
    before = [(p.image.copy(), p.labels.copy()) for p in PAIRS]
    for step in range(5):
        sampled(PAIRS, (17, step), synthetic=0.0)
    for p, (image, labels) in zip(PAIRS, before, strict=True):
        np.testing.assert_array_equal(p.image, image)
        np.testing.assert_array_equal(p.labels, labels)


def test_share_of_synthetic_scenes():
    """Real cells of these pairs have multiples of 3 as labels and there are at most 5."""
    real = sum(
        set(np.unique(sampled(PAIRS, (19, step), synthetic=0.3).labels)) <= {0, 3, 6, 9, 12, 15}
        for step in range(60)
    )
    assert 30 <= real <= 54


def test_real_cells_keep_their_scale_give_or_take(monkeypatch: pytest.MonkeyPatch):
    """The image's longer side is the model's, times about 1.1; the square root of areas tells."""
    monkeypatch.setattr(module, "SHRUNK_SHARE", 0.0)
    monkeypatch.setattr(module, "CROP_SHARE", 0.0)
    ratios = []
    alone = pair(152, 152, 23)
    areas = np.bincount(alone.labels.ravel())
    for step in range(40):
        sample = sampled([alone], (29, step), size=304, full_size=304, synthetic=0.0)
        found = np.bincount(sample.labels.ravel(), minlength=len(areas))
        whole = [label for label in (3, 6, 9, 12, 15) if areas[label] and found[label]]
        ratios += [np.sqrt(found[label] / areas[label]) for label in whole]
    assert np.median(ratios) == pytest.approx(2.2, rel=0.2)
    assert min(ratios) < 1.6
    assert max(ratios) > 3


def test_image_and_labels_move_together(monkeypatch: pytest.MonkeyPatch):
    """Whatever the augmentation, bright stays on the cells or, inverted, dark does.

    Repainted cells may be rings or halos, which this does not hold for.
    """
    monkeypatch.setattr(module, "REPAINTED_SHARE", 0.0)
    for step in range(25):
        sample = sampled([PAIRS[2]], (31, step), size=128, full_size=128, synthetic=0.0)
        height, width = sample.size
        grey = sample.image[:height, :width].mean(axis=2)
        inside = sample.labels[:height, :width] > 0
        core = cv2.erode(inside.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        if core.any():
            between = (grey[inside].mean() + grey[~inside].mean()) / 2
            sign = np.sign(grey[inside].mean() - between)
            assert np.mean(sign * (grey[core] - between) > 0) > 0.95


@pytest.mark.parametrize(
    "height, width, size, valid",
    [
        (53, 106, 64, (32, 64)),
        (106, 53, 64, (64, 32)),
        (89, 89, 48, (48, 48)),
        (30, 101, 112, (33, 112)),
    ],
)
def test_validation_sample_keeps_the_aspect(
    height: int, width: int, size: int, valid: tuple[int, int]
):
    drawn = pair(height, width, 37)
    sample = whole_image_sample(drawn, size, points=19)
    require_sound(sample, size)
    assert sample.size == valid
    expected = cv2.resize(drawn.image, valid[::-1], interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(sample.image[: valid[0], : valid[1]], expected)
    shown = np.bincount(sample.labels.ravel(), minlength=16) / (valid[0] * valid[1])
    truth = np.bincount(drawn.labels.ravel(), minlength=16) / (height * width)
    assert np.abs(shown - truth)[1:].max() < 0.02
    assert equal(sample, whole_image_sample(drawn, size, points=19))


def test_validation_labels_are_never_mixed():
    labels = np.zeros((90, 90), np.int32)
    labels[:, :45], labels[:, 45:] = 2, 40
    whole = Pair("two", "ab" * 32, np.full((90, 90, 3), 99, np.uint8), labels)
    assert set(np.unique(whole_image_sample(whole, 64, points=5).labels)) == {2, 40}


def test_pairs_are_read_by_stem_and_ordered_by_content(tmp_path: Path):
    for name, seed in (("b", 41), ("a", 43), ("c", 47)):
        write_pair(tmp_path, name, seed, suffix=".bmp" if name == "c" else ".png")
    pairs = read_pairs(tmp_path)
    assert {p.name for p in pairs} == {"a", "b", "c"}
    assert [p.digest for p in pairs] == sorted(p.digest for p in pairs)
    for p in pairs:
        expected = disks(47, 59, {"b": 41, "a": 43, "c": 47}[p.name])
        assert (p.image.dtype, p.image.shape) == (np.uint8, (47, 59, 3))
        assert p.labels.dtype == np.int32
        np.testing.assert_array_equal(p.labels, expected)
    shutil.move(tmp_path / "images" / "a.png", tmp_path / "images" / "z.png")
    shutil.move(tmp_path / "labels" / "a.png", tmp_path / "labels" / "z.png")
    assert [p.digest for p in read_pairs(tmp_path)] == [p.digest for p in pairs]


def no_images(folder: Path) -> None:
    shutil.rmtree(folder / "images")


def empty_images(folder: Path) -> None:
    (folder / "images" / "a.png").unlink()


def no_label_folder(folder: Path) -> None:
    shutil.rmtree(folder / "labels")


def one_label_missing(folder: Path) -> None:
    write_pair(folder, "b", 59)
    (folder / "labels" / "b.png").unlink()


def other_size(folder: Path) -> None:
    Image.fromarray(np.zeros((47, 61), np.uint16)).save(folder / "labels" / "a.png")


def not_an_image(folder: Path) -> None:
    (folder / "images" / "a.png").write_text("a note")


@pytest.mark.parametrize(
    "spoil, message",
    [
        (no_images, "no training images; expected the sub-folders images/ and labels/"),
        (empty_images, "no training images"),
        (no_label_folder, "a.png: image without labels; expected labels/a.*"),
        (one_label_missing, "b.png: image without labels; expected labels/b.*"),
        (other_size, "a.png: image and labels differ in size; got (47, 59) and (47, 61)"),
        (not_an_image, "a.png: "),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_bad_folders_are_named(tmp_path: Path, spoil, message: str):
    write_pair(tmp_path, "a", 53)
    spoil(tmp_path)
    with pytest.raises(InputError) as caught:
        read_pairs(tmp_path)
    assert message in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_excluded_by_content_under_any_name_and_format(tmp_path: Path):
    for name, seed in (("mine", 61), ("other", 67), ("third", 71)):
        write_pair(tmp_path, name, seed)
    shipped = sorted((SAMPLES / "images").glob("*.png"))[:2]
    for number, path in enumerate(shipped):
        with Image.open(path) as picture:
            picture.save(tmp_path / "images" / f"renamed{number}.bmp")
        shutil.copy(SAMPLES / "labels" / path.name, tmp_path / "labels" / f"renamed{number}.png")
    pairs = read_pairs(tmp_path)
    assert len(pairs) == 5
    excluded = {p.digest for p in read_pairs(SAMPLES)}
    for held_out in range(4):
        training, validation = split_pairs(pairs, held_out, excluded)
        assert len(validation) == held_out
        assert {p.name for p in training + validation} == {"mine", "other", "third"}


@pytest.mark.parametrize("held_out", [0, 2, 5])
def test_held_out_pairs_are_never_trained(held_out: int):
    pairs = [pair(43, 43, seed) for seed in range(5)]
    training, validation = split_pairs(pairs, held_out, set())
    assert validation == pairs[:held_out]
    assert training == pairs[held_out:]


def test_no_picture_twice_and_none_without_cells():
    pairs = [pair(43, 43, seed) for seed in range(3)]
    empty = Pair("empty", "00" * 32, pairs[0].image, np.zeros((43, 43), np.int32))
    again = Pair("again", pairs[1].digest, pairs[1].image, pairs[1].labels)
    training, validation = split_pairs([empty, pairs[0], pairs[1], again, pairs[2]], 2, set())
    assert [p.digest for p in validation + training] == [p.digest for p in pairs]


def test_repainted_labels_are_the_pairs_own(monkeypatch: pytest.MonkeyPatch):
    """Another picture, the same cells and points: the key draws the rest alike."""
    monkeypatch.setattr(module, "REPAINTED_SHARE", 0.0)
    as_it_is = [sampled(PAIRS, (41, step), synthetic=0.0) for step in range(5)]
    monkeypatch.setattr(module, "REPAINTED_SHARE", 1.0)
    repainted = [sampled(PAIRS, (41, step), synthetic=0.0) for step in range(5)]
    for one, other in zip(as_it_is, repainted, strict=True):
        np.testing.assert_array_equal(one.labels, other.labels)
        assert not np.array_equal(one.image, other.image)
