"""How far each decision of the reference was from going the other way.

Two implementations of the same model differ in the last digits of their scores and logits. Where
that moves a decision the labels may differ, and nowhere else. A decision's margin is the largest
step of ``STEPS`` by which scores and logits may move, in the worst direction, with the decision
still standing; bounds are conservative, so a margin is never too large. Decisions that stand
beyond the last step are not recorded.

Pixels count as decisions too (logit > 0). Two things are left out: a pair of boxes that begins to
overlap in more than a one-pixel line with masks that hardly meet (IoU near 0, far below any
threshold but 0), and flips of a few pixels at once that only together join or part two regions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from reference.rules_prompts import Box, Size

STEPS = (0.0, 1e-7, 2e-7, 5e-7, 1e-6, 2e-6, 5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3)
WATCH = STEPS[-1]


def margin_of(can_flip: Callable[[float], bool]) -> float:
    """Largest step below the first at which ``can_flip``; infinite where none can."""
    for standing, step in pairwise(STEPS):
        if can_flip(step):
            return standing
    return math.inf


@dataclass(frozen=True)
class Evidence:
    """What the logits of one prompt say about how firm its decisions are.

    Attributes
    ----------
    score : the prompt's score.
    high, low : pixels above +offset and above -offset.
    near_high, near_low : signed distances to +offset and to -offset, those within WATCH.
    area : pixels above 0.
    near_yx, near_zero : image positions int [n, 2] and logits [n] of the pixels within WATCH of 0.
    box_distance : by how much logits must move before the box does.
    origin_yx, window : where the mask is: bool, its top left corner in the image.
    """

    score: float
    high: int
    low: int
    near_high: np.ndarray
    near_low: np.ndarray
    area: int
    near_yx: np.ndarray
    near_zero: np.ndarray
    box_distance: float
    origin_yx: tuple[int, int]
    window: np.ndarray

    def flips(self, eps: float) -> int:
        """Pixels that enter or leave the mask when logits move by ``eps``."""
        return int(np.count_nonzero(np.abs(self.near_zero) <= eps))

    def stability_range(self, eps: float) -> tuple[float, float]:
        """Least and greatest stability when logits move by ``eps``."""
        high_min, high_max = _count_range(self.high, self.near_high, eps)
        low_min, low_max = _count_range(self.low, self.near_low, eps)
        return high_min / max(low_max, 1), high_max / max(low_min, 1)

    def rank_range(self, eps: float, with_stability: bool) -> tuple[float, float]:
        """Least and greatest rank: score, or score × stability."""
        least, greatest = self.stability_range(eps) if with_stability else (1.0, 1.0)
        ends = [s * t for s in (self.score - eps, self.score + eps) for t in (least, greatest)]
        return min(ends), max(ends)

    def pixel_margin(self, pixels: np.ndarray) -> float:
        """Least |logit| over the image pixels bool [H, W]; infinite where none is near 0."""
        hit = pixels[self.near_yx[:, 0], self.near_yx[:, 1]]
        return float(np.abs(self.near_zero[hit]).min()) if hit.any() else math.inf

    def touches(self, pixels: np.ndarray) -> bool:
        """Whether the mask, or a pixel that nearly is of it, meets bool [H, W]."""
        (y, x), (h, w) = self.origin_yx, self.window.shape
        inside = bool((pixels[y : y + h, x : x + w] & self.window).any())
        return inside or math.isfinite(self.pixel_margin(pixels))


def _count_range(count: int, near: np.ndarray, eps: float) -> tuple[int, int]:
    leaving = np.count_nonzero((near > 0) & (near <= eps))
    entering = np.count_nonzero((near <= 0) & (near >= -eps))
    return count - int(leaving), count + int(entering)


def evidence_of(score: float, logits: np.ndarray, crop: Box, offset: float) -> Evidence:
    """Evidence of one prompt from its logits float32 [h, w] at the crop's size."""
    near = np.argwhere(np.abs(logits) <= WATCH)
    mask = logits > 0
    window, origin = np.zeros((0, 0), bool), (0, 0)
    if mask.any():
        ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        window = mask[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1]
        origin = (int(ys[0]) + crop[1], int(xs[0]) + crop[0])
    high, low = logits - np.float32(offset), logits + np.float32(offset)
    return Evidence(
        score=float(score),
        high=int(np.count_nonzero(high > 0)),
        low=int(np.count_nonzero(low > 0)),
        near_high=high[np.abs(high) <= WATCH],
        near_low=low[np.abs(low) <= WATCH],
        area=int(mask.sum()),
        near_yx=near + np.array([crop[1], crop[0]]),
        near_zero=logits[near[:, 0], near[:, 1]],
        box_distance=min(_box_distance(logits.max(axis=1)), _box_distance(logits.max(axis=0))),
        origin_yx=origin,
        window=window,
    )


def _box_distance(peaks: np.ndarray) -> float:
    """By how much the peaks of rows (or columns) must move before the first or last one changes."""
    inside = np.flatnonzero(peaks > 0)
    if not len(inside):
        return float(-peaks.max())
    ends = peaks[[inside[0], inside[-1]]].min()
    outside = np.concatenate([peaks[: inside[0]], peaks[inside[-1] + 1 :]])
    return float(min(ends, -outside.max())) if len(outside) else float(ends)


@dataclass(frozen=True)
class Decision:
    """One decision: its kind, the prompts it is about, and its margin."""

    kind: str
    prompts: tuple[int, ...]
    margin: float


@dataclass
class DecisionLog:
    """Every decision that a move of WATCH or less could turn, and every prompt's evidence."""

    evidence: dict[int, Evidence] = field(default_factory=dict)
    decisions: list[Decision] = field(default_factory=list)

    def add(self, kind: str, prompts: tuple[int, ...], margin: float) -> None:
        if margin < WATCH:
            self.decisions.append(Decision(kind, prompts, margin))

    def score(self, prompt: int, threshold: float) -> None:
        if threshold:
            self.add("score", (prompt,), abs(self.evidence[prompt].score - threshold))

    def stability(self, prompt: int, threshold: float) -> None:
        evidence = self.evidence[prompt]

        def can_flip(eps: float) -> bool:
            least, greatest = evidence.stability_range(eps)
            return least < threshold <= greatest

        if threshold:
            self.add("stability", (prompt,), margin_of(can_flip))

    def area(self, prompt: int, area: int, ratio: float, image_hw: Size) -> None:
        evidence, limit = self.evidence[prompt], ratio * image_hw[0] * image_hw[1]

        def can_flip(eps: float) -> bool:
            flips = evidence.flips(eps)
            return flips > 0 and area - flips < limit <= area + flips

        if ratio:
            self.add("area", (prompt,), margin_of(can_flip))

    def edge(self, prompt: int) -> None:
        self.add("edge", (prompt,), self.evidence[prompt].box_distance)

    def pair(
        self,
        first: int,
        second: int,
        iou: float,
        union: int,
        threshold: float,
        with_stability: bool | None,
    ) -> None:
        """Whether ``first`` drops ``second``, and came first at all (unless ranks are flags)."""
        a, b = self.evidence[first], self.evidence[second]

        def iou_can_flip(eps: float) -> bool:
            reach = (a.flips(eps) + b.flips(eps)) / max(union, 1)
            return reach > 0 and iou - reach <= threshold < iou + reach

        def rank_can_flip(eps: float) -> bool:
            least = a.rank_range(eps, bool(with_stability))[0]
            return least <= b.rank_range(eps, bool(with_stability))[1]

        self.add("iou", (first, second), margin_of(iou_can_flip))
        if with_stability is not None and iou > threshold:
            self.add("rank", (first, second), margin_of(rank_can_flip))

    def line_pair(self, first: int, second: int) -> None:
        """Masks that overlap while their boxes meet in a line only: a box that grows drops one."""
        a, b = self.evidence[first], self.evidence[second]
        self.add("box overlap", (first, second), min(a.box_distance, b.box_distance))

    def regions(
        self, prompt: int, mask: np.ndarray, result: Callable[[np.ndarray], np.ndarray]
    ) -> None:
        """Whether a pixel that flips takes a region with it: cleaning and the painted part."""
        evidence, settled = self.evidence[prompt], result(mask)

        def can_flip(eps: float) -> bool:
            flipping = evidence.near_yx[np.abs(evidence.near_zero) <= eps]
            if not len(flipping):
                return False
            apart = np.ones_like(mask)
            apart[flipping[:, 0], flipping[:, 1]] = False
            for value in (False, True):
                moved = mask.copy()
                moved[flipping[:, 0], flipping[:, 1]] = value
                if ((result(moved) != settled) & apart).any():
                    return True
            return False

        self.add("regions", (prompt,), margin_of(can_flip))

    def paint(self, first: int, second: int, areas: tuple[int, int], with_stability: bool) -> None:
        """Which of two overlapping cells is painted over the other: by area, then by list order."""
        a, b = self.evidence[first], self.evidence[second]

        def can_flip(eps: float) -> bool:
            if abs(areas[0] - areas[1]) <= a.flips(eps) + b.flips(eps) > 0:
                return True
            ranks = a.rank_range(eps, with_stability), b.rank_range(eps, with_stability)
            meet = ranks[0][0] <= ranks[1][1] and ranks[1][0] <= ranks[0][1]
            return areas[0] == areas[1] and meet

        self.add("paint", (first, second), margin_of(can_flip))

    def min_margin_near(self, pixels: np.ndarray) -> float:
        """Least margin of any decision about a prompt whose mask meets ``pixels`` bool [H, W]."""
        near = {prompt for prompt, evidence in self.evidence.items() if evidence.touches(pixels)}
        margins = [d.margin for d in self.decisions if near.intersection(d.prompts)]
        margins += [self.evidence[prompt].pixel_margin(pixels) for prompt in near]
        return min(margins, default=math.inf)
