"""Encoding with less work is segment-anything's own; a window of the frame is a part of it."""

from __future__ import annotations

import pytest
import torch
from drawing import draw_weights
from torch import Tensor

from cellseg1_rt.backbone import Backbone
from cellseg1_rt.model import attention_blocks
from cellseg1_rt.model.encoding import Way, encode_window, sub_grid
from cellseg1_rt.model.sam import build_sam

PADDED = Backbone("padded", 48, 3, 3, (1,), 5)
EXACT = Backbone("exact", 26, 4, 2, (0, 3), 3)
NO_WINDOWS = Backbone("no-windows", 40, 2, 4, (0, 1), 7)
LARGE_WINDOWS = Backbone("large-windows", 24, 2, 3, (1,), 14)
CASES = [
    pytest.param(PADDED, 112, id="grid-7-windows-5"),
    pytest.param(EXACT, 96, id="grid-6-windows-3"),
    pytest.param(NO_WINDOWS, 80, id="global-only"),
    pytest.param(LARGE_WINDOWS, 80, id="windows-larger-than-the-grid"),
    pytest.param(PADDED, 16, id="one-token"),
]


def images(count: int, size: int) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(13))


def spread(values: Tensor) -> float:
    return float(values.max() - values.min())


WAYS = ["products", "fused", "blocks"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("backbone, size", CASES)
def test_a_whole_frame_is_sams(backbone: Backbone, size: int, way: Way):
    encoder = draw_weights(build_sam(backbone, size), 17).image_encoder
    with torch.no_grad():
        expected = encoder(images(2, size))
        found = encode_window(encoder, images(2, size), way=way)
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) <= 4e-6 * spread(expected)


@pytest.mark.parametrize("name", ["rel_pos_h", "rel_pos_w", "qkv.bias", "proj.bias"])
@pytest.mark.parametrize("block", [0, 1])
def test_the_comparison_sees_every_part(name: str, block: int):
    """Without it the equality above would hold for an encoder that leaves the part out."""
    encoder = draw_weights(build_sam(PADDED, 112), 17).image_encoder
    with torch.no_grad():
        before = encode_window(encoder, images(1, 112))
        encoder.get_parameter(f"blocks.{block}.attn.{name}").mul_(1.5)
        after = encode_window(encoder, images(1, 112))
    assert float((after - before).abs().max()) > 1e-3 * spread(before)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("backbone, size", CASES[:4])
def test_gradients_are_sams(backbone: Backbone, size: int, way: Way):
    encoder = draw_weights(build_sam(backbone, size), 17).image_encoder
    weights = torch.randn(
        2, 256, size // 16, size // 16, generator=torch.Generator().manual_seed(5)
    )

    if way == "blocks":  # where they get no gradients
        for name, parameter in encoder.named_parameters():
            parameter.requires_grad_("rel_pos" not in name)

    def gradients(embedding: Tensor) -> dict[str, Tensor]:
        encoder.zero_grad(set_to_none=True)
        torch.autograd.backward((embedding * weights).sum())
        return {n: p.grad.clone() for n, p in encoder.named_parameters() if p.requires_grad}

    expected = gradients(encoder(images(2, size)))
    found = gradients(encode_window(encoder, images(2, size), way=way))
    largest = max(float(values.abs().max()) for values in expected.values())
    for name, theirs in expected.items():
        room = 1e-4 * float(theirs.abs().max()) + 1e-6 * largest
        assert float((found[name] - theirs).abs().max()) <= room, name


def test_blocks_of_several_heads_and_a_rest(monkeypatch: pytest.MonkeyPatch):
    """Seven heads in blocks of two: the last holds one."""
    generator = torch.Generator().manual_seed(3)
    q, k, v, upstream = torch.randn(4, 7, 15, 11, generator=generator).unbind()
    rows, columns = torch.randn(3, 3, 11), torch.randn(5, 5, 11)
    results = []
    for elements in (2**20, 2 * 15**2):
        monkeypatch.setattr(attention_blocks, "BLOCK_ELEMENTS", elements)
        leaves = [values.clone().requires_grad_() for values in (q, k, v)]
        out = attention_blocks.attend_in_blocks(*leaves, rows, columns, 0.3)
        torch.autograd.backward(out, upstream)
        results.append([out, *(leaf.grad for leaf in leaves)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


def test_a_window_has_the_frames_positions_and_distances():
    """A window of k·k tokens is a frame of that size whose tables are the middle of this one's."""
    frame = draw_weights(build_sam(EXACT, 96), 19)
    small = build_sam(EXACT, 48)
    state = {name: values.clone() for name, values in frame.state_dict().items()}
    top, left, side = 2, 1, 3
    positions = state["image_encoder.pos_embed"]
    state["image_encoder.pos_embed"] = positions[:, top : top + side, left : left + side]
    for block in EXACT.global_attn_indexes:
        for axis in ("h", "w"):
            name = f"image_encoder.blocks.{block}.attn.rel_pos_{axis}"
            middle = len(state[name]) // 2
            state[name] = state[name][middle - side + 1 : middle + side]
    small.load_state_dict(state)
    with torch.no_grad():
        found = encode_window(frame.image_encoder, images(1, 48), torch.tensor([[top, left]]))
        expected = small.image_encoder(images(1, 48))
        elsewhere = encode_window(frame.image_encoder, images(1, 48), torch.tensor([[0, 3]]))
    assert float((found - expected).abs().max()) <= 4e-6 * spread(expected)
    assert float((elsewhere - expected).abs().max()) > 1e-2 * spread(expected)


def test_a_window_that_is_not_square():
    encoder = draw_weights(build_sam(PADDED, 112), 23).image_encoder
    pixels = images(2, 112)[:, :, :48, :80]
    with torch.no_grad():
        embedding = encode_window(encoder, pixels, torch.tensor([[4, 2], [0, 1]]))
    assert embedding.shape == (2, 256, 3, 5)


def test_sub_grid_cuts_each_window_at_its_own_place():
    grid = torch.arange(35.0).view(1, 5, 7, 1)
    cut = sub_grid(grid, torch.tensor([[0, 0], [2, 4]]), (3, 2))
    assert cut[:, :, :, 0].tolist() == [
        [[0, 1], [7, 8], [14, 15]],
        [[18, 19], [25, 26], [32, 33]],
    ]
