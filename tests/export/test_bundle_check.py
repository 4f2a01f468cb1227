"""The check that a bundle carries: from SAM's own modules in float32, and passed by its graphs."""

from __future__ import annotations

import numpy as np
import pytest
from drawing import draw_weights

from cellseg1_rt.backbone import Backbone
from cellseg1_rt.check import check_inputs, read_check
from cellseg1_rt.contract import read_manifest
from cellseg1_rt.errors import VerificationError
from cellseg1_rt.export.bundle import TOLERANCES
from cellseg1_rt.export.check import make_check, write_bundle_check
from cellseg1_rt.export.graphs import graph_modules
from cellseg1_rt.export.plain_graphs import plain_modules
from cellseg1_rt.model.precision import in_precision
from cellseg1_rt.model.sam import build_sam

SMALL = Backbone("small", 48, 3, 3, (1,), 5)
SIZE = 112


def drawn(seed: int):
    return draw_weights(build_sam(SMALL, SIZE), seed)


@pytest.fixture(scope="module")
def plain():
    return plain_modules(drawn(3))


def write(folder, plain, typed, tolerances):
    return write_bundle_check(
        folder, plain, typed, image_size=SIZE, precision="bf16", tolerances=tolerances
    )


def test_modules_in_bf16_pass_and_the_check_is_of_float32(plain, tmp_path, tiny_folder):
    typed = graph_modules(in_precision(drawn(3), "bf16"))
    deviations = write(tmp_path, plain, typed, TOLERANCES["bf16"])
    assert all(1e-3 < each.relative < each.allowed for each in deviations)
    check = read_check(tmp_path, read_manifest(tiny_folder))
    np.testing.assert_array_equal(check.inputs.image, check_inputs(SIZE).image)
    made = make_check(plain, SIZE)
    for tensor in ("embedding", "score", "logits"):
        found, wanted = getattr(check.outputs, tensor), getattr(made.outputs, tensor)
        assert wanted.std() > 0
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("seed, tolerances", [(4, "bf16"), (3, "fp32")])
def test_graphs_that_do_not_pass_leave_no_check(plain, tmp_path, seed: int, tolerances: str):
    """Modules of other weights, and the right ones rounded where they must not be."""
    typed = graph_modules(in_precision(drawn(seed), "bf16"))
    with pytest.raises(VerificationError, match="the bundle gives something else than"):
        write(tmp_path, plain, typed, TOLERANCES[tolerances])
    assert list(tmp_path.iterdir()) == []
