"""From low-resolution logits to counts, boxes and packed masks, without full-size logits.

Each mask is evaluated only where it can be above -offset: both bilinear steps are weighted means,
so that a pixel none of whose cells is above a floor is not above it either. Pixels are those of a
crop; words are the image's (``scalars`` says how they lie).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.runtime.kernels.compiling import compiled
from cellseg1_rt.runtime.kernels.scalars import blend, count_bits, word_of
from cellseg1_rt.runtime.resample import AxisMap

__all__ = ["evaluate_masks", "find_extents", "gather_words"]

Ints = NDArray[np.int32]
Longs = NDArray[np.int64]
Floats = NDArray[np.float32]
Words = NDArray[np.uint32]

EXPONENT = np.int32(0x7F800000)
"""Exponent bits of a float32: all set in infinities and NaN, and in nothing else."""


@compiled
def find_extents(
    logits: Floats,
    bits: Ints,
    floor: np.float32,
    extents: Ints,
    bounds: Ints,
    finite: NDArray[np.bool_],
) -> None:
    """First and last cell above ``floor``, row by row and all in all; whether cells are finite.

    Parameters
    ----------
    logits : float32 [M, c, c].
    bits : the same memory as int32.
    floor : cells at most this high are passed over.
    extents : int32 [M, c, 2], written: first and last cell; c and -1 where there is none.
    bounds : int32 [M, 4], written: first column, first row, last column, last row; the last two
        are -1 where there is none.
    finite : bool [M], written.
    """
    count, cells = logits.shape[0], logits.shape[1]
    for mask in range(count):
        largest = np.int32(0)
        left, top, right, bottom = cells, cells, -1, -1
        for row in range(cells):
            line, line_bits = logits[mask, row], bits[mask, row]
            any_above = False
            for column in range(cells):
                any_above |= line[column] > floor
                largest = max(largest, line_bits[column] & EXPONENT)
            first, last = cells, -1
            if any_above:
                first, last = 0, cells - 1
                while not line[first] > floor:
                    first += 1
                while not line[last] > floor:
                    last -= 1
                left, right = min(left, first), max(right, last)
                top, bottom = min(top, row), row
            extents[mask, row, 0], extents[mask, row, 1] = first, last
        bounds[mask, 0], bounds[mask, 1] = left, top
        bounds[mask, 2], bounds[mask, 3] = right, bottom
        finite[mask] = largest < EXPONENT


@compiled
def evaluate_masks(
    logits: Floats,
    extents: Ints,
    regions: Ints,
    rows: AxisMap,
    columns: AxisMap,
    crop_x0: int,
    offset: np.float32,
    start: Longs,
    words: Words,
    counts: Longs,
    boxes: Ints,
) -> None:
    """Evaluate masks in their regions.

    Parameters
    ----------
    logits : float32 [M, c, c].
    extents : int32 [M, c, 2], of ``find_extents``.
    regions : int32 [M, 4]: x0, y0, x1, y1 of the crop's pixels to evaluate, exclusive ends.
    rows, columns : the crop's maps.
    crop_x0 : first column of the crop in the image.
    offset : of the stability.
    start : int64 [M], the first word of each mask in ``words``.
    words : uint32, zeros, written: the region's rows, each from the word of its first pixel on.
    counts : int64 [M, 3] of zeros, written: logits above +offset, above -offset, above 0.
    boxes : int32 [M, 4] of zeros, written: first and last pixel above 0 (x0, y0, x1, y1),
        inclusive, in the crop; zeros where none is.
    """
    wide = np.empty((len(extents[0]), len(columns.cell_before)), np.float32)
    lines = np.empty((len(rows.cell_before), len(columns.input_before)), np.float32)
    for mask in range(len(logits)):
        region = regions[mask]
        if region[0] >= region[2] or region[1] >= region[3]:
            continue
        _widen(logits[mask], region, rows, columns, wide)
        _fill_lines(extents[mask], region, rows, columns, wide, lines)
        first_word = word_of(region[0] + crop_x0)
        base = (first_word << 5) - crop_x0  # the crop's column of the first word's first bit
        width = word_of(region[2] - 1 + crop_x0) - first_word + 1
        _fill_words(
            extents[mask], region, rows, columns, lines, base, width, offset,
            words[start[mask] :], counts[mask],
        )  # fmt: skip
        if counts[mask, 2] > 0:
            height = region[3] - region[1]
            _box_of_words(words[start[mask] :], height, width, base, region[1], boxes[mask])


@compiled
def _span(
    extent: Ints, low: int, high: int, first_reader: Ints, end_reader: Ints
) -> tuple[int, int]:
    """Pixel columns ``first..end-1`` that read a cell above the floor in cell rows low..high."""
    first, last = np.int32(len(extent)), np.int32(-1)
    for row in range(max(low, 0), min(high, len(extent) - 1) + 1):
        first, last = min(first, extent[row, 0]), max(last, extent[row, 1])
    if last < 0:
        return 0, 0
    start, end = first_reader[first], end_reader[last]
    return start, max(start, end)


@compiled
def _widen(logits: Floats, region: Ints, rows: AxisMap, columns: AxisMap, wide: Floats) -> None:
    """The cells' rows that a region reads, at the input's columns that it reads."""
    first, end = columns.input_before[region[0]], columns.input_after[region[2] - 1] + 1
    before, after = columns.cell_before[first:end], columns.cell_after[first:end]
    share = columns.cell_share[first:end]
    for row in range(rows.lowest_cell[region[1]], rows.highest_cell[region[3] - 1] + 1):
        cells, out = logits[row], wide[row, first:end]
        for x in range(end - first):
            out[x] = blend(cells[before[x]], cells[after[x]], share[x])


@compiled
def _fill_lines(
    extent: Ints, region: Ints, rows: AxisMap, columns: AxisMap, wide: Floats, lines: Floats
) -> None:
    """The input rows that a region reads, at the crop's columns that can be above the floor."""
    line = np.empty(wide.shape[1], np.float32)
    is_direct = lines.shape[1] == wide.shape[1]  # the crop's columns are the input's
    for row in range(rows.input_before[region[1]], rows.input_after[region[3] - 1] + 1):
        cell = rows.cell_before[row]
        # Two pixel rows read this input row, and neither reads cells beyond these four rows.
        first, end = _span(extent, cell - 1, cell + 2, columns.first_reader, columns.end_reader)
        if first == end:
            continue
        out = lines[row, first:end]
        first_input, end_input = columns.input_before[first], columns.input_after[end - 1] + 1
        between = out if is_direct else line[first_input:end_input]
        upper = wide[cell, first_input:end_input]
        lower = wide[rows.cell_after[row], first_input:end_input]
        share = rows.cell_share[row]
        for x in range(len(between)):
            between[x] = blend(upper[x], lower[x], share)
        if not is_direct:
            before, after = columns.input_before[first:end], columns.input_after[first:end]
            shares = columns.input_share[first:end]
            for x in range(len(out)):
                out[x] = blend(line[before[x]], line[after[x]], shares[x])


@compiled
def _fill_words(
    extent: Ints,
    region: Ints,
    rows: AxisMap,
    columns: AxisMap,
    lines: Floats,
    base: int,
    width: int,
    offset: np.float32,
    words: Words,
    counts: Longs,
) -> None:
    """The region's pixels: counted, and packed into words from the crop's column ``base`` on."""
    values = np.full(width << 5, -1, np.float32)  # one row of pixels, -1 where nothing is known
    for y in range(region[1], region[3]):
        first, end = _span(
            extent, rows.lowest_cell[y], rows.highest_cell[y],
            columns.first_reader, columns.end_reader,
        )  # fmt: skip
        if first == end:
            continue
        upper = lines[rows.input_before[y], first:end]
        lower = lines[rows.input_after[y], first:end]
        share, out = rows.input_share[y], values[first - base : end - base]
        above, near, area = 0, 0, 0
        for x in range(len(out)):
            value = blend(upper[x], lower[x], share)
            out[x] = value
            above += value > offset
            near += value > -offset
        place = (y - region[1]) * width
        for column in range(word_of(first - base), word_of(end - 1 - base) + 1):
            bits = values[column << 5 : (column + 1) << 5]
            word = 0
            for bit in range(32):
                word |= (bits[bit] > 0) << bit
            words[place + column] = word
            area += count_bits(word)
        for x in range(len(out)):
            out[x] = -1
        counts[0] += above
        counts[1] += near
        counts[2] += area


@compiled
def _box_of_words(words: Words, height: int, width: int, base: int, y0: int, box: Ints) -> None:
    """First and last set bit (x0, y0, x1, y1) of rows of words that are not all zero.

    The first bit of the first word is the crop's pixel ``base``, ``y0``.
    """
    columns = np.zeros(width, np.uint32)
    top, bottom = height, 0
    for y in range(height):
        found = np.uint32(0)
        for column in range(width):
            columns[column] |= words[y * width + column]
            found |= words[y * width + column]
        if found:
            top, bottom = min(top, y), y
    left, right = 0, (width << 5) - 1
    while not (columns[word_of(left)] >> (left & 31)) & 1:
        left += 1
    while not (columns[word_of(right)] >> (right & 31)) & 1:
        right -= 1
    box[0], box[1], box[2], box[3] = left + base, top + y0, right + base, bottom + y0


@compiled
def gather_words(
    words: Words,
    start: Longs,
    regions: Ints,
    crop_x0: int,
    chosen: Longs,
    boxes: Ints,
    new_start: Longs,
    new_words: Words,
) -> None:
    """Copy the chosen masks from their regions to their own boxes.

    Parameters
    ----------
    words, start, regions, crop_x0 : of ``evaluate_masks``.
    chosen : int64 [N], which masks.
    boxes : int32 [N, 4], their boxes in the crop.
    new_start : int64 [N], the first word of each in ``new_words``.
    new_words : uint32, written.
    """
    for place in range(len(chosen)):
        mask = chosen[place]
        x0, y0, x1, y1 = boxes[place, 0], boxes[place, 1], boxes[place, 2], boxes[place, 3]
        left = word_of(regions[mask, 0] + crop_x0)
        old_width = word_of(regions[mask, 2] - 1 + crop_x0) - left + 1
        first = word_of(x0 + crop_x0)
        width = word_of(x1 + crop_x0) - first + 1
        source = start[mask] + (y0 - regions[mask, 1]) * old_width + first - left
        target = new_start[place]
        for _ in range(y1 - y0 + 1):
            for column in range(width):
                new_words[target + column] = words[source + column]
            source += old_width
            target += width
