import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from cellseg1_rt.backbone import Backbone
from cellseg1_rt.errors import ConfigError
from cellseg1_rt.model.sam import build_sam, resize_positions

SMALL = Backbone("small", 26, 3, 2, (1,), 3)


def resized(values: NDArray, count: int, axis: int) -> NDArray:
    """Linear along one axis, first and last kept (align_corners=True), in float64."""
    old = np.arange(values.shape[axis])
    new = np.linspace(0, values.shape[axis] - 1, count)
    return np.apply_along_axis(lambda line: np.interp(new, old, line), axis, values)


def drawn_positions(grid: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(grid)
    state = {"image_encoder.pos_embed": torch.randn(1, grid, grid, 26, generator=generator)}
    for block, rows in ((0, 5), (1, 2 * grid - 1), (2, 5)):
        for axis in "hw":
            key = f"image_encoder.blocks.{block}.attn.rel_pos_{axis}"
            state[key] = torch.randn(rows, 13, generator=generator)
    return state


@pytest.mark.parametrize("source, target", [(11, 5), (5, 11), (7, 3), (64, 32), (2, 7), (3, 1)])
def test_positions_resize_linearly_with_corners_kept(source: int, target: int):
    state = drawn_positions(source)
    before = {key: value.clone() for key, value in state.items()}
    after = resize_positions(state, SMALL, 16 * target)

    positions = before["image_encoder.pos_embed"].double().numpy()
    expected = resized(resized(positions, target, 1), target, 2)
    np.testing.assert_allclose(after["image_encoder.pos_embed"].numpy(), expected, atol=5e-5)
    for axis in "hw":
        key = f"image_encoder.blocks.1.attn.rel_pos_{axis}"
        expected = resized(before[key].double().numpy(), 2 * target - 1, 0)
        np.testing.assert_allclose(after[key].numpy(), expected, atol=5e-5)
        for block in (0, 2):
            key = f"image_encoder.blocks.{block}.attn.rel_pos_{axis}"
            assert after[key] is state[key]
    assert all(torch.equal(state[key], before[key]) for key in before)


def test_meta_to_cellseg1_takes_127_rows_to_63():
    vit_b = Backbone("vit_b", 768, 12, 12, (2, 5, 8, 11), 14)
    state = {
        f"image_encoder.blocks.{block}.attn.rel_pos_h": torch.randn(rows, 64)
        for block, rows in ((2, 127), (3, 27))
    }
    after = resize_positions(state, vit_b, 512)
    assert [tuple(value.shape) for value in after.values()] == [(63, 64), (27, 64)]


def test_same_size_shares_every_tensor():
    state = drawn_positions(7)
    after = resize_positions(state, SMALL, 112)
    assert all(after[key] is state[key] for key in state)


@pytest.mark.parametrize("image_size", [16, 48, 112, 176])
def test_any_multiple_of_16_runs(image_size: int):
    sam = build_sam(SMALL, image_size)
    grid = image_size // 16
    with torch.no_grad():
        embedding = sam.image_encoder(torch.randn(1, 3, image_size, image_size))
    assert embedding.shape == (1, 256, grid, grid)
    assert not sam.training
    assert sam.image_encoder.blocks[1].attn.rel_pos_h.shape == (2 * grid - 1, 13)
    assert sam.image_encoder.blocks[0].attn.rel_pos_h.shape == (5, 13)
    assert sam.prompt_encoder.get_dense_pe().shape == (1, 256, grid, grid)


@pytest.mark.parametrize("image_size", [0, -16, 8, 17, 500, 512.0])
def test_other_sizes_are_refused(image_size: float):
    with pytest.raises(ConfigError, match=r"image_size: not a multiple of the patch size; got"):
        build_sam(SMALL, image_size)
