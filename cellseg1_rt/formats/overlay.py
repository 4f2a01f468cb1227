"""Overlay pictures: an image with the outline of every cell, to judge a result at a glance.

Pictures to look at, not to measure in. Imports numpy; opencv and pillow inside the functions.
"""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.errors import ConfigError, InputError
from cellseg1_rt.files import atomic_path

__all__ = ["overlay_from_labels", "write_overlay"]

# Bright enough for a dark field and saturated enough for a bright one, in an order in which
# successive colours are far apart.
_COLOURS = np.array(
    [
        (255, 214, 10),  # yellow
        (0, 229, 255),  # cyan
        (255, 64, 190),  # pink
        (124, 252, 60),  # lime
        (255, 122, 20),  # orange
        (70, 150, 255),  # blue
        (255, 70, 70),  # red
        (190, 110, 255),  # violet
    ],
    np.uint8,
)
_FILL = 0.08  # share of the colour inside a cell
_HALO = 0.45  # share of black in the line around an outline, which carries it on a bright field
_PX_PER_LINE_WIDTH = 900  # short side of an image up to which outlines are one pixel wide


def overlay_from_labels(rgb: NDArray[np.uint8], labels: NDArray[Any]) -> NDArray[np.uint8]:
    """Draw the outlines of cells over an image.

    The outline lies inside the cell, so touching cells both keep theirs; a dark line surrounds it,
    and the cell is lightly tinted. Cells that face each other get different colours. A cell cut by
    the image's edge is left open there. Equal arguments give equal pixels.

    Parameters
    ----------
    rgb : uint8 [H, W, 3], RGB; not changed.
    labels : integer [H, W], 0 is background.

    Returns
    -------
    uint8 [H, W, 3], RGB.

    Raises
    ------
    InputError : if an array has another shape or dtype.
    """
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.size == 0:
        raise InputError(
            "not an RGB image",
            where="overlay",
            got=f"{rgb.dtype} {rgb.shape}",
            expected="uint8 [H, W, 3]",
        )
    if labels.shape != rgb.shape[:2] or labels.dtype.kind not in "bui":
        raise InputError(
            "labels that do not fit the image",
            where="overlay",
            got=f"{labels.dtype} {labels.shape}",
            expected=f"integers {rgb.shape[:2]}",
        )
    found, inverse = np.unique(labels, return_inverse=True)
    if not found.any():
        return rgb.copy()
    first_rank = 0 if found[0] == 0 else 1
    ranks = np.asarray(inverse.reshape(labels.shape) + first_rank, dtype=np.int32)
    colours = _COLOURS[_colours_of_ranks(ranks)]
    outline = _outline(ranks, max(1, round(min(labels.shape) / _PX_PER_LINE_WIDTH)))
    halo = _touching(outline) & (ranks == 0)
    inside = (ranks > 0) & ~outline
    picture = rgb.copy()
    picture[inside] = np.rint(
        (1 - _FILL) * rgb[inside] + _FILL * colours[ranks[inside]].astype(np.float64)
    )
    picture[halo] = np.rint((1 - _HALO) * rgb[halo])
    picture[outline] = colours[ranks[outline]]
    return picture


def write_overlay(path: str | PathLike[str], rgb: NDArray[np.uint8], labels: NDArray[Any]) -> None:
    """Write ``overlay_from_labels(rgb, labels)`` as .png, .jpg or .jpeg.

    Raises
    ------
    ConfigError : on another suffix.
    InputError : if an array has another shape or dtype.
    """
    from PIL import Image

    path = Path(path)
    formats = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
    if path.suffix.lower() not in formats:
        raise ConfigError(
            "not a suffix for a picture",
            where=path,
            got=repr(path.suffix),
            expected=", ".join(formats),
        )
    picture = Image.fromarray(overlay_from_labels(rgb, labels))
    with atomic_path(path) as temporary:
        picture.save(temporary, format=formats[path.suffix.lower()], quality=92, subsampling=0)


def _outline(ranks: NDArray[np.int32], width: int) -> NDArray[np.bool_]:
    """Pixels of a cell that are less than ``width`` steps from a pixel of another label."""
    outline = np.zeros(ranks.shape, np.bool_)
    for first, second in _neighbour_views():
        differs = ranks[first] != ranks[second]
        outline[first] |= differs
        outline[second] |= differs
    outline &= ranks > 0
    for _ in range(width - 1):
        outline = _touching(outline) & (ranks > 0) | outline
    return outline


def _touching(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels with one of the mask's among their 4 neighbours."""
    touching = np.zeros_like(mask)
    for first, second in _neighbour_views():
        touching[first] |= mask[second]
        touching[second] |= mask[first]
    return touching


def _neighbour_views() -> list[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """Index pairs under which each pixel meets its right and its lower neighbour."""
    return [
        ((slice(None), slice(None, -1)), (slice(None), slice(1, None))),
        ((slice(None, -1),), (slice(1, None),)),
    ]


def _colours_of_ranks(ranks: NDArray[np.int32]) -> NDArray[np.intp]:
    """A colour index for each rank 0..K, different for cells that face each other.

    Greedy in rank order: of the colours used least by the neighbours coloured so far (mostly not
    at all), the first from the rank's own on.
    """
    n = int(ranks.max()) + 1
    neighbours: list[list[int]] = [[] for _ in range(n)]
    for low, high in _facing_pairs(ranks).tolist():
        neighbours[high].append(low)
    colours = np.zeros(n, np.intp)
    for rank in range(1, n):
        uses = np.bincount(colours[neighbours[rank]], minlength=len(_COLOURS))
        # argmin takes the first of equals, so the rotation makes the rank's own colour come first.
        own = rank % len(_COLOURS)
        colours[rank] = (own + int(np.argmin(np.roll(uses, -own)))) % len(_COLOURS)
    return colours


def _facing_pairs(ranks: NDArray[np.int32]) -> NDArray[np.int64]:
    """Pairs [P, 2] (lower, higher) of ranks whose nearest-cell regions meet; each pair once."""
    import cv2

    _, sites = cv2.distanceTransformWithLabels(
        (ranks == 0).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    rank_of_site = np.zeros(int(sites.max()) + 1, np.int64)
    rank_of_site[sites[ranks > 0]] = ranks[ranks > 0]
    regions = rank_of_site[sites]
    n = int(ranks.max()) + 1
    codes = []
    for first, second in _neighbour_views():
        meets = regions[first] != regions[second]
        one, other = regions[first][meets], regions[second][meets]
        codes.append(np.minimum(one, other) * n + np.maximum(one, other))
    unique = np.unique(np.concatenate(codes))
    return np.stack([unique // n, unique % n], axis=1)
