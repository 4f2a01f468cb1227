"""Pictures for the report: an image, and on it the outline of every cell by kind of mistake.

The image is a small JPEG or, where there is none, a PNG of the two label maps; the outlines are
SVG paths over it, so that they stay sharp and can be told apart by colour, line and letters.
Pictures to look at, not to measure in. Imports numpy and scipy; opencv and pillow inside functions.
"""

from __future__ import annotations

import io
from base64 import b64encode
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from cellseg1_rt.errors import InputError
from cellseg1_rt.evaluate.figures import narrowed_labels
from cellseg1_rt.evaluate.mistakes import Mistakes, find_mistakes

__all__ = ["KINDS", "LONG_SIDE", "Outlines", "Picture", "picture_from_labels"]

LONG_SIDE = 640
"""Pixels of the longer side of every picture."""

KINDS = {
    "matched": "",
    "missed": "Mi",
    "false": "Fa",
    "split": "Sp",
    "merged": "Me",
}
"""Kinds of cells and the letters that stand in them."""

_DARK = 0.2  # mean level, of 0..1, below which a picture is brightened for the eye
_GAMMA = 0.6
_GREYS = np.array([40, 80, 80, 125], np.uint8)  # background, predicted, true, both
_ROOM_PX = 9  # px of the picture that letters need on each side of their middle
_SIMPLIFY_PX = 0.4  # px of the picture by which an outline may be simplified


@dataclass(frozen=True)
class Outlines:
    """The cells of one kind in one picture.

    Attributes
    ----------
    cells, parts : SVG path data in px of the picture: the cells, and what a split cell was cut into
        or a merged cell is made of.
    letters_at : (x, y) in px of the picture, in each cell or, where it is too small, above it.
    """

    cells: str
    parts: str
    letters_at: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Picture:
    """What a report shows of one image.

    Attributes
    ----------
    data_uri : the image without outlines.
    width, height : its size in px.
    outlines : by kind, as in ``KINDS``.
    """

    data_uri: str
    width: int
    height: int
    outlines: dict[str, Outlines]


def picture_from_labels(
    pred: NDArray[Any], true: NDArray[Any], image: NDArray[Any] | None = None
) -> Picture:
    """Draw the cells of two label maps, true ones but for false and merged cells.

    Parameters
    ----------
    pred, true : integer label maps [H, W], 0 is background.
    image : bool, integer or float [h, w] or [h, w, C], C in 1..4, stretched to the labels' size if
        it has another. None draws the areas of the label maps instead.

    Raises
    ------
    InputError : if the image is not finite.
    """
    import cv2

    scale = LONG_SIDE / max(true.shape)
    height, width = (max(1, round(side * scale)) for side in true.shape)
    if image is None:
        background = _GREYS[(pred > 0) + 2 * (true > 0)]
        method = cv2.INTER_NEAREST_EXACT
    else:
        background = _for_the_eye(image)
        method = cv2.INTER_AREA if image.shape[0] > height else cv2.INTER_LINEAR
    small = np.asarray(cv2.resize(background, (width, height), interpolation=method), np.uint8)
    pred, true = narrowed_labels(pred), narrowed_labels(true)
    mistakes = find_mistakes(pred, true)
    pred_shapes = _Shapes(pred, width, height)
    true_shapes = _Shapes(true, width, height)
    return Picture(
        data_uri=_data_uri(small, "PNG" if image is None else "JPEG"),
        width=width,
        height=height,
        outlines=_outlines(mistakes, pred_shapes, true_shapes),
    )


class _Shapes:
    """The outlines of the cells of one map, in px of a picture of ``width`` × ``height``."""

    def __init__(self, labels: NDArray[Any], width: int, height: int) -> None:
        found, ranks = np.unique(labels, return_inverse=True)
        self.labels = found[found > 0]
        first_rank = 0 if found[0] == 0 else 1
        self._ranks = np.asarray(ranks.reshape(labels.shape) + first_rank, np.int32)
        self._boxes = find_objects(self._ranks)
        self._factors = np.array([width / labels.shape[1], height / labels.shape[0]])

    def path(self, labels: NDArray[Any]) -> str:
        """SVG path data: a closed line through the outermost pixels of each cell."""
        return "".join(
            _path(np.rint(points * 10).astype(int))
            for label in labels
            for points in self._contours(label)
        )

    def centres(self, labels: NDArray[Any]) -> tuple[tuple[int, int], ...]:
        """(x, y) for letters: the pixel farthest from the cell's border, or above a small cell."""
        import cv2

        centres = []
        for label in labels:
            mask, corner = self._mask(label)
            depth = cv2.distanceTransform(np.pad(mask, 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
            y, x = np.unravel_index(int(np.argmax(depth)), depth.shape)
            x_px, y_px = ((np.array([x, y]) + corner + 0.5) * self._factors).tolist()
            room = float(depth.max() * self._factors.max())
            if room < _ROOM_PX:
                y_px = max(y_px - room - _ROOM_PX, _ROOM_PX)
            centres.append((round(x_px), round(y_px)))
        return tuple(centres)

    def _contours(self, label: int) -> list[NDArray[np.float64]]:
        import cv2

        mask, corner = self._mask(label)
        contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        tolerance = _SIMPLIFY_PX / float(self._factors.max())
        simple = (cv2.approxPolyDP(contour, tolerance, True)[:, 0] for contour in contours)
        return [(points + corner + 0.5) * self._factors for points in simple]

    def _mask(self, label: int) -> tuple[NDArray[np.uint8], NDArray[np.intp]]:
        """A cell in its box, and the box's (x, y) in the map."""
        rank = int(np.searchsorted(self.labels, label)) + 1
        box = self._boxes[rank - 1]
        mask = np.asarray(self._ranks[box] == rank, np.uint8)
        return mask, np.array([box[1].start, box[0].start])


def _outlines(mistakes: Mistakes, pred: _Shapes, true: _Shapes) -> dict[str, Outlines]:
    wrong = np.concatenate([mistakes.missed, mistakes.split, mistakes.merged_parts])
    right = true.labels[~np.isin(true.labels, wrong)]
    return {
        "matched": Outlines(true.path(right), "", ()),
        "missed": Outlines(true.path(mistakes.missed), "", true.centres(mistakes.missed)),
        "false": Outlines(pred.path(mistakes.false), "", pred.centres(mistakes.false)),
        "split": Outlines(
            true.path(mistakes.split),
            pred.path(mistakes.split_parts),
            true.centres(mistakes.split),
        ),
        "merged": Outlines(
            pred.path(mistakes.merged),
            true.path(mistakes.merged_parts),
            pred.centres(mistakes.merged),
        ),
    }


def _path(points: NDArray[np.int_]) -> str:
    """Path data of points [N, 2] in tenths of a px: absolute first, the rest relative."""
    steps = " ".join(f"{x / 10:g} {y / 10:g}" for x, y in np.diff(points, axis=0).tolist())
    x, y = points[0].tolist()
    return f"M{x / 10:g} {y / 10:g}l{steps or '0 0'}z"


def _for_the_eye(image: NDArray[Any]) -> NDArray[np.uint8]:
    """An image [H, W] or [H, W, C] of any range as uint8 [H, W] or [H, W, 3], in good contrast."""
    levels = image.astype(np.float64)
    if not np.isfinite(levels).all():
        raise InputError("an image that is not finite", expected="finite pixels")
    if levels.ndim == 3:
        levels = levels[..., 0] if levels.shape[2] == 1 else levels[..., :3]
        if levels.shape[-1] == 2 and levels.ndim == 3:
            levels = np.concatenate([levels, np.zeros_like(levels[..., :1])], axis=2)
    low, high = np.percentile(levels, (0.1, 99.9))
    levels = np.clip((levels - low) / max(high - low, np.finfo(np.float64).tiny), 0, 1)
    if levels.mean() < _DARK:
        levels **= _GAMMA
    return np.asarray(np.rint(255 * levels), np.uint8)


def _data_uri(pixels: NDArray[np.uint8], format: str) -> str:
    from PIL import Image

    file = io.BytesIO()
    options: dict[str, Any] = {"quality": 85} if format == "JPEG" else {"optimize": True}
    Image.fromarray(pixels).save(file, format=format, **options)
    return f"data:image/{format.lower()};base64,{b64encode(file.getvalue()).decode('ascii')}"
