"""How far a build of nested phases is."""

from __future__ import annotations

import pytest

from cellseg1_rt.engine.progress import Steps


def test_nested_phases():
    steps = Steps()
    assert steps.share == 0
    steps.start("all", None, 4)
    steps.complete("all", 0)
    assert steps.share == pytest.approx(1 / 4)
    steps.start("part", "all", 5)
    steps.complete("part", 1)
    assert steps.share == pytest.approx((1 + 2 / 5) / 4)
    steps.start("piece", "part", 2)
    steps.complete("piece", 0)
    assert steps.share == pytest.approx((1 + (2 + 1 / 2) / 5) / 4)
    steps.finish("piece")
    steps.finish("part")
    steps.complete("all", 3)
    assert steps.share == 1
    steps.start("more than was said", "all", 1)
    steps.complete("more than was said", 0)
    assert steps.share == 1


def test_a_phase_of_no_steps():
    steps = Steps()
    steps.start("empty", None, 0)
    assert steps.share == 0
    steps.finish("empty")
    assert steps.share == 0
