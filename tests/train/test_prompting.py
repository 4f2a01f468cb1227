"""Decoding for training is segment-anything's own, in values and in gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from drawing import draw_weights
from segment_anything.modeling import Sam
from torch import Tensor

from cellseg1_rt.backbone import Backbone
from cellseg1_rt.model.sam import build_sam
from cellseg1_rt.train.prompting import decode_points, upscale_masks

WIDE = Backbone("wide", 48, 3, 3, (1,), 5)
NARROW = Backbone("narrow", 26, 2, 2, (0,), 3)
CASES = [
    pytest.param(WIDE, 48, 1, id="48px-1point"),
    pytest.param(WIDE, 112, 7, id="112px-7points"),
    pytest.param(NARROW, 80, 13, id="80px-13points"),
    pytest.param(NARROW, 16, 3, id="one-token"),
]

Decode = Callable[[Sam, Tensor, Tensor], tuple[Tensor, Tensor]]


def plain(sam: Sam, embedding: Tensor, points_xy: Tensor) -> tuple[Tensor, Tensor]:
    """Scores [N] and logits [N, 4g, 4g] by the package's own modules."""
    sparse, dense = sam.prompt_encoder(
        points=(points_xy[:, None], torch.ones(len(points_xy), 1)), boxes=None, masks=None
    )
    masks, scores = sam.mask_decoder(
        image_embeddings=embedding,
        image_pe=sam.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=False,
    )
    return scores[:, 0], masks[:, 0]


def shared(sam: Sam, embedding: Tensor, points_xy: Tensor) -> tuple[Tensor, Tensor]:
    decoded = decode_points(sam, embedding, points_xy)
    return decoded.score, upscale_masks(sam, decoded.keys, decoded.hyper)


def spread(values: Tensor) -> float:
    return float((values.max() - values.min()) if values.numel() > 1 else values.abs().max())


def drawn(backbone: Backbone, size: int, count: int) -> tuple[Sam, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(101)
    sam = draw_weights(build_sam(backbone, size), 103)
    image = torch.randn(1, 3, size, size, generator=generator)
    return sam, image, torch.rand(count, 2, generator=generator) * size


@pytest.mark.parametrize("backbone, size, count", CASES)
def test_scores_and_masks_are_sams(backbone: Backbone, size: int, count: int):
    sam, image, points = drawn(backbone, size, count)
    with torch.no_grad():
        embedding = sam.image_encoder(image)
        expected = plain(sam, embedding, points)
        found = shared(sam, embedding, points)
    side = size // 4
    assert [tuple(values.shape) for values in found] == [(count,), (count, side, side)]
    for ours, theirs in zip(found, expected, strict=True):
        assert float((ours - theirs).abs().max()) <= 1e-5 * spread(theirs)


@pytest.mark.parametrize("backbone, size, count", CASES)
def test_gradients_are_sams(backbone: Backbone, size: int, count: int):
    sam, image, points = drawn(backbone, size, count)

    def gradients(decode: Decode) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(107)
        sam.zero_grad(set_to_none=True)
        loss = torch.zeros(())
        for values in decode(sam, sam.image_encoder(image), points):
            loss = loss + (values * torch.randn(values.shape, generator=generator)).sum()
        torch.autograd.backward(loss)
        return {
            name: torch.zeros_like(p) if p.grad is None else p.grad
            for name, p in sam.named_parameters()
        }

    found, expected = gradients(shared), gradients(plain)
    largest = max(float(values.abs().max()) for values in expected.values())
    assert sum(bool(values.any()) for values in expected.values()) > 100
    for name, theirs in expected.items():
        # A bias of a key projection moves no softmax: its gradient is rounding only.
        room = 1e-4 * float(theirs.abs().max()) + 1e-6 * largest
        assert float((found[name] - theirs).abs().max()) <= room, name


def test_masks_of_chosen_points_only():
    sam, image, points = drawn(NARROW, 48, 11)
    with torch.no_grad():
        embedding = sam.image_encoder(image)
        _, expected = plain(sam, embedding, points)
        decoded = decode_points(sam, embedding, points)
        chosen = [7, 2, 5]
        found = upscale_masks(sam, decoded.keys[chosen], decoded.hyper[chosen])
    assert float((found - expected[chosen]).abs().max()) <= 1e-5 * spread(expected)
