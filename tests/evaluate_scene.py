"""Five small images with true and predicted labels, each with mistakes of its own."""

from __future__ import annotations

import numpy as np
from PIL import Image

from cellseg1_rt.formats import write_label_png, write_label_tiff

TRUE = np.zeros((61, 83), np.int32)
for _number, (_y, _x) in enumerate([(5, 7), (5, 40), (30, 7), (30, 40), (43, 65)], start=1):
    TRUE[_y : _y + 13, _x : _x + 17] = _number


def predictions():
    """{name: predicted map}"""
    cut, joined = TRUE.copy(), TRUE.copy()
    cut[:, 46:57] += 10 * (cut[:, 46:57] > 0)
    cut[43:56, 46:82] = TRUE[43:56, 46:82]
    joined[5:18, 7:57] = 1
    wrong = np.zeros_like(TRUE)
    wrong[20:28, 20:30], wrong[50:60, 3:20] = 1, 2
    missing = np.where(TRUE > 3, 0, TRUE)
    return {"fine": TRUE, "cut": cut, "joined": joined, "missing": missing, "wrong": wrong}


def make_folders(folder):
    """Folders of predicted labels, true labels and images, for all five."""
    pred, true, images = (folder / name for name in ("pred", "true", "images"))
    for one in (pred, true, images):
        one.mkdir(parents=True)
    rng = np.random.default_rng(3)
    for name, labels in predictions().items():
        write_label_tiff(pred / f"{name}_labels.tif", labels)
        write_label_png(true / f"{name}.png", TRUE)
        pixels = 40 * (TRUE > 0) + rng.integers(0, 30, TRUE.shape)
        Image.fromarray(pixels.astype(np.uint8)).save(images / f"{name}.png")
    return pred, true, images
