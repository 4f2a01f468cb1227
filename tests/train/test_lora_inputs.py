"""The annotated images of a training: how they pair, what is refused, what is told of them."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import tifffile
from annotated import disks
from PIL import Image

from cellseg1_rt.errors import InputError
from cellseg1_rt.train.lora_inputs import describe_images, pair_files, read_training_image


def write_image(path: Path, seed: int = 3, size: tuple[int, int] = (61, 73)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(disks(seed, *size)[0]).save(path)
    return path


def write_labels(path: Path, labels: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    labels = disks(3, 61, 73)[1] if labels is None else labels
    np.save(path, labels)
    return path


def test_two_files_are_a_pair(tmp_path: Path):
    pair = write_image(tmp_path / "a.png"), write_labels(tmp_path / "b.npy")
    assert pair_files(*pair) == [pair]


def test_folders_pair_by_name(tmp_path: Path):
    images, labels = tmp_path / "i", tmp_path / "l"
    for name in ("b.png", "a.bmp", ".hidden.png", "notes.txt"):
        write_image(images / name.replace("txt", "png")).rename(images / name)
    for name in ("a.npy", "b_seg.npy"):
        write_labels(labels / name)
    assert pair_files(images, labels) == [
        (images / "a.bmp", labels / "a.npy"),
        (images / "b.png", labels / "b_seg.npy"),
    ]


def test_orphans_of_both_sides_are_listed(tmp_path: Path):
    images, labels = tmp_path / "i", tmp_path / "l"
    for name in ("a.png", "c.png", "d.png"):
        write_image(images / name)
    for name in ("a.npy", "b.npy"):
        write_labels(labels / name)
    with pytest.raises(InputError) as caught:
        pair_files(images, labels)
    assert str(caught.value) == (
        f"images and labels do not pair by name; got {images} only: c, d; {labels} only: b; "
        "expected the same names on both sides, up to the suffix. Fix: rename or remove these files"
    )


@pytest.mark.parametrize(
    "names, message",
    [
        ((), "no images here; expected files ending in .tif"),
        (("a.png", "a.bmp"), "two files of one name; got a.bmp and a.png"),
    ],
    ids=["empty", "twice"],
)
def test_folders_that_do_not_pair(tmp_path: Path, names: tuple[str, ...], message: str):
    images, labels = tmp_path / "i", tmp_path / "l"
    images.mkdir()
    labels.mkdir()
    for name in names:
        write_image(images / name)
    with pytest.raises(InputError, match=message):
        pair_files(images, labels)


def test_a_folder_and_a_file(tmp_path: Path):
    image = write_image(tmp_path / "i" / "a.png")
    with pytest.raises(InputError, match="a folder on one side only"):
        pair_files(image.parent, write_labels(tmp_path / "a.npy"))


def shifted(labels: np.ndarray) -> np.ndarray:
    return np.where(labels > 0, labels.astype(np.int64) + 70_000, 0)


def beyond_int32(labels: np.ndarray) -> np.ndarray:
    return np.where(labels > 0, labels.astype(np.int64) + 3_000_000_000, 0).astype(np.uint32)


@pytest.mark.parametrize("change", [shifted, beyond_int32])
def test_large_label_numbers_just_work(tmp_path: Path, change):
    labels = disks(3, 61, 73)[1]
    read = read_training_image(
        write_image(tmp_path / "a.png"), write_labels(tmp_path / "a.npy", change(labels))
    )
    assert read.labels.dtype == np.int32
    assert np.array_equal(read.labels, labels)


@pytest.mark.parametrize(
    "labels, message",
    [
        pytest.param(np.ones((61, 71), np.int32), "labels of another size", id="size"),
        pytest.param(np.zeros((61, 73), np.int32), "no cells", id="no-cells"),
        pytest.param(np.ones((61, 73), np.int32), "one cell covers everything", id="one-cell"),
    ],
)
def test_impossible_annotations(tmp_path: Path, labels: np.ndarray, message: str):
    paths = write_image(tmp_path / "a.png"), write_labels(tmp_path / "a.npy", labels)
    with pytest.raises(InputError, match=message) as caught:
        read_training_image(*paths)
    assert str(caught.value).startswith(f"{paths[1]}: ")


def test_what_looks_wrong_is_told(tmp_path: Path):
    labels = disks(3, 61, 73)[1]
    labels[labels > 2] = 0
    told: list[str] = []
    paths = write_image(tmp_path / "a.png"), write_labels(tmp_path / "a.npy", labels)
    read_training_image(*paths, told.append)
    assert any(line.startswith(f"warning: {paths[1]}: few cells: 2") for line in told)


def test_what_provenance_says(tmp_path: Path):
    image, labels = disks(3, 61, 73)
    first = tmp_path / "a.tif"
    tifffile.imwrite(first, image, resolution=(1 / 0.5, 1 / 0.25), imagej=True,
                     metadata={"unit": "um"})  # fmt: skip
    label_path = write_labels(tmp_path / "a.npy", labels)
    one = read_training_image(first, label_path)
    other = read_training_image(write_image(tmp_path / "b.png"), label_path)
    told = describe_images([one])
    assert json.loads(told["training_image_size_px"]) == [61, 73]
    assert json.loads(told["training_pixel_size_um"]) == pytest.approx([0.25, 0.5])
    (row,) = json.loads(told["training_images"])
    assert row["name"] == "a.tif"
    assert row["sha256"] == sha256(first.read_bytes()).hexdigest()
    assert row["labels_sha256"] == sha256(label_path.read_bytes()).hexdigest()
    assert row["cells"] == labels.max()
    both = describe_images([one, other])
    assert json.loads(both["training_image_size_px"]) == [61, 73]
    assert "training_pixel_size_um" not in both
    assert [row["pixel_size_um"] for row in json.loads(both["training_images"])][1] is None
