"""Samples become figures: medians with quartiles, rates, shares of ceilings, ratios of pairs.

Imports numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cellseg1_rt.benchmarking.contender import STAGES, Contender, Sample

__all__ = [
    "Ceilings",
    "Spread",
    "StageRow",
    "ratios_of_pairs",
    "run_rounds",
    "spread_of",
    "stages_of",
]


@dataclass(frozen=True)
class Spread:
    """Median and quartiles, interpolated linearly."""

    median: float
    q1: float
    q3: float


@dataclass(frozen=True)
class Ceilings:
    """What the machine does at best.

    Attributes
    ----------
    gemm_flop_per_s : FLOP/s of matrix products, by precision, then by the runtime that did them.
    copy_bytes_per_s : bytes read and written while memory is copied.
    """

    gemm_flop_per_s: dict[str, dict[str, float]]
    copy_bytes_per_s: float

    def gemm(self, precision: str) -> float | None:
        """The most that any runtime did in a precision; None where none was measured in it."""
        return max(self.gemm_flop_per_s.get(precision, {}).values(), default=None)


@dataclass(frozen=True)
class StageRow:
    """One stage over all samples of a path.

    Attributes
    ----------
    stage : of ``STAGES``.
    seconds : of an image.
    gflop, mbytes : of an image, mean, in 10⁹ and 10⁶.
    gflop_per_s, gbyte_per_s : all work over all time; None where none is counted.
    share_of_gemm, share_of_copy : of the ceilings, 1 being all of it.
    """

    stage: str
    seconds: Spread
    gflop: float
    mbytes: float
    gflop_per_s: float | None
    gbyte_per_s: float | None
    share_of_gemm: float | None
    share_of_copy: float | None


def run_rounds(
    contenders: Sequence[Contender],
    images: Sequence[Path],
    repeats: int,
    run: Callable[[Contender, Path], Sample],
) -> list[list[Sample]]:
    """Samples of each contender, round by round, image by image.

    For each image all contenders run one after another, and who begins moves on by one each round:
    of two, each is first in every other round. A round before the first, on one image, is not kept.
    """
    for contender in contenders:
        run(contender, images[0])
    samples: list[list[Sample]] = [[] for _ in contenders]
    for number in range(repeats):
        order = [(number + place) % len(contenders) for place in range(len(contenders))]
        for image in images:
            for place in order:
                samples[place].append(run(contenders[place], image))
    return samples


def spread_of(values: Sequence[float]) -> Spread:
    """Median and quartiles of some values."""
    q1, median, q3 = np.quantile(values, [0.25, 0.5, 0.75]).tolist()
    return Spread(median, q1, q3)


def ratios_of_pairs(slow: Sequence[Sample], fast: Sequence[Sample]) -> Spread:
    """How many times faster labels came: of each pair, which ran one after the other."""
    return spread_of([a.segmenting_s / b.segmenting_s for a, b in zip(slow, fast, strict=True)])


def stages_of(
    samples: Sequence[Sample], precision: str, ceilings: Ceilings | None
) -> list[StageRow]:
    """A row for each stage that the samples have.

    Parameters
    ----------
    ceilings : of where they ran; None where they were not measured, as on a card.
    """
    rows = []
    for stage in STAGES:
        if stage not in samples[0].seconds:
            continue
        seconds = [sample.seconds[stage] for sample in samples]
        work = [sample.work[stage] for sample in samples if stage in sample.work]
        flop, moved = sum(w.flop for w in work), sum(w.moved_bytes for w in work)
        flop_per_s = flop / sum(seconds) if flop else None
        bytes_per_s = moved / sum(seconds) if moved else None
        gemm = None if ceilings is None else ceilings.gemm(precision)
        copy = None if ceilings is None else ceilings.copy_bytes_per_s
        rows.append(
            StageRow(
                stage,
                spread_of(seconds),
                flop / len(samples) / 1e9,
                moved / len(samples) / 1e6,
                None if flop_per_s is None else flop_per_s / 1e9,
                None if bytes_per_s is None else bytes_per_s / 1e9,
                None if flop_per_s is None or gemm is None else flop_per_s / gemm,
                None if bytes_per_s is None or copy is None else bytes_per_s / copy,
            )
        )
    return rows
