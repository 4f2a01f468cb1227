"""Cells as runs of pixels, and the label map they are painted into.

The rule where cells overlap: later ones lie on top. Cells are numbered 1..K in the order of their
file; one that ends without a pixel is named aloud and leaves its number unused. Imports numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.errors import InputError

__all__ = ["Spans", "labels_from_spans", "listed"]

_MOST_LISTED = 5
_MOST_PIXELS = 2**31 - 1


@dataclass(frozen=True)
class Spans:
    """The pixels of one cell.

    Attributes
    ----------
    starts, stops : int64 [N], runs of pixels as half-open ranges of row · width + column. They may
        overlap and come in any order; none is empty.
    """

    starts: NDArray[np.int64]
    stops: NDArray[np.int64]


def labels_from_spans(
    cells: Sequence[Spans],
    names: Sequence[str],
    shape: tuple[int, int],
    path: Path,
    say: Callable[[str], None],
) -> NDArray[np.int32]:
    """Paint cells into a label map: cell i as number i + 1, over those before it.

    Parameters
    ----------
    cells : in the order of their file; ranges within ``shape``.
    names : how messages call each.
    shape : (height, width) in px.
    path : the file, for messages.
    say : gets one line a kind of cell that ends without a pixel.

    Returns
    -------
    int32 [H, W].

    Raises
    ------
    InputError : if no cell has a pixel.
    """
    height, width = shape
    if height * width > _MOST_PIXELS:
        raise InputError(
            "an image too large for labels in one piece",
            where=path,
            got=f"{height} x {width} px",
            expected=f"at most {_MOST_PIXELS:,} pixels",
            fix="cut it into tiles",
        )
    labels = np.zeros(height * width, np.int32)
    # One cell at a time: with repeated indices numpy does not promise which value stays.
    for number, spans in enumerate(cells, 1):
        labels[_indices_of(spans)] = number
    sizes = np.bincount(labels, minlength=len(cells) + 1)[1:]
    outside = [i for i, spans in enumerate(cells) if len(spans.starts) == 0]
    hidden = [i for i, spans in enumerate(cells) if len(spans.starts) > 0 and sizes[i] == 0]
    if len(outside) == len(cells):
        raise _no_cells(len(cells), shape, path)
    if outside:
        say(
            f"{path.name}: left out, outside the image or around no pixel's centre: "
            f"{listed([names[i] for i in outside])}"
        )
    if hidden:
        say(f"{path.name}: left out, hidden under later ones: {listed([names[i] for i in hidden])}")
    return labels.reshape(shape)


def _no_cells(count: int, shape: tuple[int, int], path: Path) -> InputError:
    expected = f"cells in an image of {shape[0]} x {shape[1]} px"
    if count == 0:
        return InputError(
            "no cells",
            where=path,
            got="a file without outlines of cells",
            expected=expected,
            fix="outline the cells and export them again",
        )
    return InputError(
        "no cells",
        where=path,
        got=f"{count} outlines, none around the centre of a pixel of the image",
        expected=expected,
        fix="check that the outlines belong to this image, in pixels of its full resolution",
    )


def listed(names: Sequence[str]) -> str:
    """The first five names on one line, and how many more there are."""
    text = ", ".join(" ".join(name.split()) for name in names[:_MOST_LISTED])
    more = len(names) - _MOST_LISTED
    return text if more <= 0 else f"{text} and {more:,} more"


def _indices_of(spans: Spans) -> NDArray[np.int64]:
    lengths = spans.stops - spans.starts
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    indices = np.arange(total, dtype=np.int64)
    indices += np.repeat(spans.starts - (ends - lengths), lengths)
    return indices
