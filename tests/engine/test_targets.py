"""Which cards TensorRT-RTX builds for."""

from __future__ import annotations

import pytest
import tensorrt_rtx

from cellseg1_rt.engine.targets import resolve_targets
from cellseg1_rt.errors import ConfigError


def test_targets_in_the_librarys_order():
    asked = ("sm_120", "sm_75", "sm_89")
    assert resolve_targets(tensorrt_rtx, "tensorrt-rtx", asked) == ("sm_75", "sm_89", "sm_120")


def test_a_card_that_tensorrt_rtx_does_not_know():
    with pytest.raises(ConfigError) as caught:
        resolve_targets(tensorrt_rtx, "tensorrt-rtx", ("sm_89", "sm_90"))
    line = str(caught.value)
    assert "builds no engines for these cards; got sm_90; expected sm_75, sm_80, sm_86" in line
    assert "--flavor tensorrt on the card itself" in line
