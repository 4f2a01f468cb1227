"""COCO's run-length masks to pixels, exactly.

Runs go down the columns, left to right, and alternate between background and object, beginning with
background. The compressed form writes each run (from the fourth on as its difference from the one
two before) in pieces of five bits, the lowest first, as the characters from "0" on: 32 is added
where more follow, and in the last piece 16 is the sign. Imports numpy.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from cellseg1_rt.errors import InputError
from cellseg1_rt.formats.spans import Spans

__all__ = ["counts_from_string", "spans_from_rle"]

_ZERO = ord("0")
_MORE, _SIGN, _BITS = 32, 16, 5
_MOST_PIECES = 7  # 35 bits; a run has at most 31


def spans_from_rle(rle: dict[str, Any], shape: tuple[int, int], name: str, path: Path) -> Spans:
    """The pixels of a mask ``{"size": [height, width], "counts": [...] or "..."}``.

    Raises
    ------
    InputError : if its size is not ``shape``, or its runs do not fill that size.
    """
    height, width = shape
    counts, size = rle.get("counts"), rle.get("size")
    if size != [height, width]:
        raise InputError(
            f"{name} has a mask of another size than its image",
            where=path,
            got=repr(size),
            expected=f"[{height}, {width}]",
        )
    try:
        runs = counts_from_string(counts) if isinstance(counts, str) else _whole_numbers(counts)
        if sum(runs) != height * width:
            raise ValueError(f"runs of {sum(runs):,} px together")
    except ValueError as error:
        raise InputError(
            f"{name} has a damaged run-length mask",
            where=path,
            got=error,
            expected=f"runs of {height * width:,} px together, plain or compressed",
        ) from error
    ends = np.cumsum(np.array([*runs, 0][: len(runs) // 2 * 2], np.int64))
    lengths = ends[1::2] - ends[::2]
    total = int(lengths.sum())
    offsets = ends[::2] - (np.cumsum(lengths) - lengths)
    column, row = np.divmod(np.arange(total) + np.repeat(offsets, lengths), height)
    pixels = np.sort(row * width + column)
    first = np.flatnonzero(np.diff(pixels, prepend=-2) != 1)
    last = np.append(first[1:], total) - 1 if total else first
    return Spans(pixels[first], pixels[last] + 1)


def counts_from_string(text: str) -> list[int]:
    """The runs in a compressed string.

    Raises
    ------
    ValueError : if a character is out of range, a number too large or negative, or the end missing.
    """
    counts: list[int] = []
    value = pieces = 0
    for character in text:
        code = ord(character) - _ZERO
        if not 0 <= code < 2 * _MORE or pieces == _MOST_PIECES:
            raise ValueError(f"the character {character!r} after {len(counts)} runs")
        value |= (code % _MORE) << _BITS * pieces
        pieces += 1
        if code & _MORE:
            continue
        if code & _SIGN:
            value -= 1 << _BITS * pieces
        if len(counts) > 2:
            value += counts[-2]
        if value < 0:
            raise ValueError(f"a run of {value} px after {len(counts)} runs")
        counts.append(value)
        value = pieces = 0
    if pieces:
        raise ValueError("a string that is cut off")
    return counts


def _whole_numbers(counts: Any) -> list[int]:
    if not isinstance(counts, list) or not all(isinstance(n, int) and n >= 0 for n in counts):
        raise ValueError("counts that are not a list of whole numbers")
    return counts
