"""Order of the rounds, and figures from samples that can be worked out by hand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from cellseg1_rt.benchmarking.contender import Sample, Work
from cellseg1_rt.benchmarking.summary import (
    Ceilings,
    Spread,
    ratios_of_pairs,
    run_rounds,
    spread_of,
    stages_of,
)

A, B = Path("a"), Path("b")


@dataclass
class Named:
    name: str
    precision: str = "fp32"

    def run(self, image: Path) -> Sample:
        raise NotImplementedError


def sample(seconds: dict[str, float], work: dict[str, Work] | None = None) -> Sample:
    return Sample(seconds, work or {}, np.zeros((2, 3), int), 0)


def test_who_begins_moves_on_each_round():
    ran: list[str] = []

    def run(contender: Named, image: Path) -> Sample:
        ran.append(f"{contender.name}{image}")
        return sample({"encode": float(len(ran))})

    samples = run_rounds([Named("x"), Named("y")], [A, B], 3, run)
    warm, *rounds = ran[:2], ran[2:6], ran[6:10], ran[10:]
    assert warm == ["xa", "ya"]
    assert rounds == [["xa", "ya", "xb", "yb"], ["ya", "xa", "yb", "xb"], ["xa", "ya", "xb", "yb"]]
    assert [s.seconds["encode"] for s in samples[0]] == [3, 5, 8, 10, 11, 13]
    assert [s.seconds["encode"] for s in samples[1]] == [4, 6, 7, 9, 12, 14]


def test_quartiles():
    assert spread_of([5.0, 1.0, 2.0, 3.0, 4.0]) == Spread(3, 2, 4)
    assert spread_of([7.0]) == Spread(7, 7, 7)


def test_ratios_are_of_pairs_and_of_segmenting_only():
    slow = [sample({"read": 99, "encode": 6, "other": 2}), sample({"encode": 3})]
    fast = [sample({"encode": 2, "write": 99}), sample({"encode": 3})]
    assert ratios_of_pairs(slow, fast) == Spread(2.5, 1.75, 3.25)


def test_rates_are_all_work_over_all_time():
    rows = stages_of(
        [
            sample({"encode": 1.0, "write": 1.0}, {"encode": Work(3 * 10**9, 2 * 10**9)}),
            sample({"encode": 3.0, "write": 2.0}, {"encode": Work(5 * 10**9, 4 * 10**9)}),
        ],
        "bf16",
        Ceilings({"fp32": {"x": 1e9}, "bf16": {"x": 5e9, "y": 8e9}}, 3e9),
    )
    encode, write = rows
    assert (encode.stage, encode.gflop, encode.mbytes) == ("encode", 4, 3000)
    assert (encode.gflop_per_s, encode.gbyte_per_s) == (2, 1.5)
    assert (encode.share_of_gemm, encode.share_of_copy) == (0.25, 0.5)
    assert (write.gflop, write.gflop_per_s, write.share_of_copy) == (0, None, None)


def test_no_share_of_a_ceiling_that_was_not_measured():
    (row,) = stages_of(
        [sample({"encode": 1.0}, {"encode": Work(10**9, 10**9)})], "fp16", Ceilings({}, 2e9)
    )
    assert (row.gflop_per_s, row.share_of_gemm) == (1, None)
    assert row.share_of_copy == pytest.approx(0.5)
