"""The annotated images a LoRA is trained on: found, paired, read, checked. May import numpy."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.errors import InputError
from cellseg1_rt.files import sha256_of_file
from cellseg1_rt.formats import IMAGE_SUFFIXES, read_annotation, read_image
from cellseg1_rt.runtime.normalise import rgb_from_pixels
from cellseg1_rt.train.annotation_checks import annotation_warnings
from cellseg1_rt.train.crops_for_cells import median_diameter_px, median_width_px
from cellseg1_rt.train.lora_tiles import number_cells

__all__ = ["TrainingImage", "describe_images", "pair_files", "read_training_image"]

LABEL_SUFFIXES = (*IMAGE_SUFFIXES, ".roi", ".zip", ".json", ".geojson", "_seg.npy")
"""Ends of the names of annotations that are looked for in a folder."""


@dataclass(frozen=True)
class TrainingImage:
    """An image and its labels, as training takes them.

    Attributes
    ----------
    path : of the image.
    sha256 : of the image's and the labels' files.
    rgb : uint8 [H, W, 3], normalised as at inference.
    labels : int32 [H, W], cells are 1..n without gaps.
    pixel_size_um : micrometres a pixel (y, x), or None where the file does not say.
    """

    path: Path
    sha256: tuple[str, str]
    rgb: NDArray[np.uint8]
    labels: NDArray[np.int32]
    pixel_size_um: tuple[float, float] | None


def pair_files(image: Path, labels: Path) -> list[tuple[Path, Path]]:
    """An image and its labels, or of two folders the files whose names agree up to the suffix.

    Raises
    ------
    InputError : if one is a folder and the other is not, a folder holds none, or files have no
        partner; all of those are listed.
    """
    if image.is_dir() != labels.is_dir():
        raise InputError(
            "a folder on one side only",
            where=f"{image}, {labels}",
            expected="an image and its labels, or two folders",
        )
    if not image.is_dir():
        return [(image, labels)]
    images, label_maps = _by_stem(image, IMAGE_SUFFIXES), _by_stem(labels, LABEL_SUFFIXES)
    orphans = [
        f"{folder} only: {', '.join(sorted(own.keys() - others.keys()))}"
        for folder, own, others in ((image, images, label_maps), (labels, label_maps, images))
        if own.keys() - others.keys()
    ]
    if orphans:
        raise InputError(
            "images and labels do not pair by name",
            got="; ".join(orphans),
            expected="the same names on both sides, up to the suffix",
            fix="rename or remove these files",
        )
    if not images:
        raise InputError(
            "no images here", where=image, expected=f"files ending in {', '.join(IMAGE_SUFFIXES)}"
        )
    return [(images[stem], label_maps[stem]) for stem in sorted(images)]


def read_training_image(
    image: Path, labels: Path, tell: Callable[[str], None] = lambda _: None
) -> TrainingImage:
    """Read and check one annotated image.

    Parameters
    ----------
    image, labels : a picture, and any annotation of it that can be read.
    tell : called with what looks wrong about the annotation, and what was decided in reading it.

    Raises
    ------
    InputError : if a file cannot be read, the sizes differ, or the annotation is impossible.
    """
    picture = read_image(image)
    rgb = rgb_from_pixels(picture.pixels, where=image)
    size = (rgb.shape[0], rgb.shape[1])
    read: NDArray[Any] = read_annotation(labels, size, image_name=image.name, say=tell)
    numbered = number_cells(read)
    try:
        warnings = annotation_warnings(numbered, rgb)
    except InputError as error:
        raise InputError(
            error.what, where=labels, got=error.got, expected=error.expected, fix=error.fix
        ) from error
    for warning in warnings:
        tell(f"warning: {labels}: {warning}")
    hashes = sha256_of_file(image), sha256_of_file(labels)
    return TrainingImage(image, hashes, rgb, numbered, picture.pixel_size_um)


def describe_images(images: Sequence[TrainingImage]) -> dict[str, str]:
    """What provenance says of the images: name, hashes, sizes, cells, each as JSON.

    ``training_image_size_px`` [height, width] and ``training_pixel_size_um`` [y, x] are there only
    where all images agree.
    """
    rows = [
        {
            "name": image.path.name,
            "sha256": image.sha256[0],
            "labels_sha256": image.sha256[1],
            "size_px": list(image.labels.shape),
            "pixel_size_um": None if image.pixel_size_um is None else list(image.pixel_size_um),
            "cells": int(image.labels.max()),
            "cell_diameter_px": round(median_diameter_px(image.labels), 1),
            "cell_width_px": round(median_width_px(image.labels), 1),
        }
        for image in images
    ]
    told = {"training_images": json.dumps(rows)}
    for name, of_row in (("image_size_px", "size_px"), ("pixel_size_um", "pixel_size_um")):
        first = rows[0][of_row]
        if first is not None and all(row[of_row] == first for row in rows):
            told[f"training_{name}"] = json.dumps(first)
    return told


def _by_stem(folder: Path, known: tuple[str, ...]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        suffixes = [suffix for suffix in known if path.name.lower().endswith(suffix)]
        if path.name.startswith(".") or not path.is_file() or not suffixes:
            continue
        stem = path.name[: -len(max(suffixes, key=len))]
        if stem in found:
            raise InputError(
                "two files of one name",
                where=folder,
                got=f"{found[stem].name} and {path.name}",
                expected="one file a name, up to the suffix",
            )
        found[stem] = path
    return found
