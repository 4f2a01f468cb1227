"""How cells of overlapping tiles become labels of the plane: slow, on whole masks, all at once.

The rule that ``cellseg1_rt.runtime.stitch`` states, written once more from its words; shares no
code with the package.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

FAR = 10**6


@dataclass(frozen=True)
class Plain:
    """A mask bool [H, W] of the plane as one tile found it, the tile's window (y0, x0, y1, x1)."""

    tile: int
    place: int
    window: tuple[int, int, int, int]
    mask: np.ndarray
    score: float


def axis_windows(length: int, tile: int, overlap: int) -> list[tuple[int, int]]:
    """Fewest windows that overlap enough, evenly spread."""
    count = 1
    while count * tile - (count - 1) * overlap < length:
        count += 1
    if count == 1:
        return [(0, length)]
    starts = [k * (length - tile) // (count - 1) for k in range(count)]
    return [(start, start + tile) for start in starts]


def windows_of(shape, tile, overlap) -> list[tuple[int, int, int, int]]:
    rows, columns = (axis_windows(length, tile, overlap) for length in shape)
    return [(y0, x0, y1, x1) for y0, y1 in rows for x0, x1 in columns]


def box_of(mask) -> tuple[int, int, int, int]:
    ys, xs = np.nonzero(mask)
    return int(ys.min()), int(xs.min()), int(ys.max()), int(xs.max())


def distances(box, window, shape) -> list[int]:
    """To the top, left, bottom and right border of a window; FAR where the plane ends there."""
    top, left, bottom, right = box
    y0, x0, y1, x1 = window
    return [
        FAR if y0 == 0 else top - y0,
        FAR if x0 == 0 else left - x0,
        FAR if y1 == shape[0] else y1 - bottom,
        FAR if x1 == shape[1] else x1 - right,
    ]


def clearance(box, window, shape) -> tuple[int, int]:
    """To the nearer horizontal and the nearer vertical border."""
    top, left, bottom, right = distances(box, window, shape)
    far = sum(shape)  # how far a border is that is none
    return min(top, bottom, far), min(left, right, far)


def iou(a, b) -> float:
    return np.count_nonzero(a & b) / np.count_nonzero(a | b)


def kinds(found: list[Plain], windows, shape, edge, nms) -> tuple[list[Plain], list[Plain]]:
    """Whole masks that are their tile's own or confirmed, and masks that every tile cuts."""
    whole, cut, near = [], [], []
    for one in found:
        box = box_of(one.mask)
        own = clearance(box, one.window, shape)
        every = [clearance(box, window, shape) for window in windows]
        best = [max(by_axis) for by_axis in zip(*every, strict=True)]
        if min(own) > edge:
            behind = max(most - mine for mine, most in zip(own, best, strict=True))
            if behind <= 0:
                whole.append(one)
            elif behind <= edge:
                near.append(one)
        elif min(best) <= edge:
            cut.append(one)
    seen = whole + near
    whole = whole + [
        one for one in near if any(k.tile != one.tile and iou(k.mask, one.mask) > nms for k in seen)
    ]
    return whole, cut


def belong_together(a: Plain, b: Plain) -> bool:
    if a.tile == b.tile:
        return False
    y0, x0 = (max(a.window[i], b.window[i]) for i in (0, 1))
    y1, x1 = (min(a.window[i], b.window[i]) for i in (2, 3))
    if y0 >= y1 or x0 >= x1:
        return False
    first, second = a.mask[y0:y1, x0:x1], b.mask[y0:y1, x0:x1]
    return (first & second).any() and iou(first, second) >= 0.5


def is_complete(parts: list[Plain], shape, edge) -> bool:
    """Whether each border that cuts a part is reached by another in a tile that sees beyond it."""
    for part in parts:
        for side, distance in enumerate(distances(box_of(part.mask), part.window, shape)):
            if distance > edge:
                continue
            line, axis = part.window[side], side % 2
            helped = False
            for other in parts:
                low, high = box_of(other.mask)[axis], box_of(other.mask)[axis + 2]
                sees = other.window[axis] < line < other.window[axis + 2]
                near = low - edge <= line <= high + edge
                helped = helped or (other is not part and sees and near)
            if not helped:
                return False
    return True


def unions(cut: list[Plain], shape, edge, largest: float) -> list[Plain]:
    left, found = list(cut), []
    while left:
        group = [left.pop(0)]
        grew = True
        while grew:
            more = [one for one in left if any(belong_together(one, each) for each in group)]
            grew = bool(more)
            group += more
            left = [one for one in left if not any(one is each for each in more)]
        if not is_complete(group, shape, edge):
            continue
        best = max(group, key=lambda p: (np.count_nonzero(p.mask), -p.tile, -p.place))
        mask = np.logical_or.reduce([part.mask for part in group])
        if largest == 0 or np.count_nonzero(mask) < largest:
            found.append(Plain(best.tile, best.place, best.window, mask, best.score))
    return found


def stitched(
    found: list[Plain], windows, shape, *, edge: int, nms: float, largest: float
) -> tuple[np.ndarray, list[Plain]]:
    """Labels [H, W], numbered in the order of painting, and the mask behind each."""
    whole, cut = kinds(found, windows, shape, edge, nms)

    def rank(one: Plain):
        own = clearance(box_of(one.mask), one.window, shape)
        return -min(own), -sum(own), -one.score, one.tile, one.place

    def rank_of_union(one: Plain):
        # the distances of the largest part, which gave the union its name
        part = next(p for p in cut if (p.tile, p.place) == (one.tile, one.place))
        return rank(part)[:2] + rank(one)[2:]

    joined = sorted(unions(cut, shape, edge, largest), key=rank_of_union)
    kept: list[tuple[Plain, bool]] = []
    for one, is_union in [(w, False) for w in sorted(whole, key=rank)] + [
        (u, True) for u in joined
    ]:
        against = [k for k, _ in kept if is_union or k.tile != one.tile]
        if all(iou(one.mask, k.mask) <= nms for k in against):
            kept.append((one, is_union))
    kept.sort(key=lambda k: (-np.count_nonzero(k[0].mask), k[0].tile, k[1], k[0].place))
    labels = np.zeros(shape, int)
    for number, (one, _) in enumerate(kept, 1):
        pieces, count = ndimage.label(one.mask)
        sizes = np.bincount(pieces.ravel(), minlength=count + 1)[1:]
        labels[one.mask] = 0
        labels[pieces == 1 + int(np.argmax(sizes))] = number
    return labels, [one for one, _ in kept]
