"""Decoding with less work is segment-anything's own, in values and in gradients."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from drawing import draw_weights
from segment_anything.modeling import Sam
from torch import Tensor

from cellseg1_rt.backbone import Backbone
from cellseg1_rt.model.decoding import decode_points
from cellseg1_rt.model.encoding import encode_window
from cellseg1_rt.model.precision import point_positions, score_of
from cellseg1_rt.model.sam import build_sam
from cellseg1_rt.model.upscaling import upscale_masks

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
    decoded = decode_points(sam, embedding, points_xy[None])
    return decoded.score, upscale_masks(sam, decoded.keys, decoded.hyper, grid_of(embedding))


def grid_of(embedding: Tensor) -> tuple[int, int]:
    return embedding.shape[2], embedding.shape[3]


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
        decoded = decode_points(sam, embedding, points[None])
        chosen = [7, 2, 5]
        found = upscale_masks(sam, decoded.keys[chosen], decoded.hyper[chosen], grid_of(embedding))
    assert float((found - expected[chosen]).abs().max()) <= 1e-5 * spread(expected)


def test_images_of_a_batch_are_decoded_each_by_itself():
    sam, image, points = drawn(WIDE, 80, 10)
    images = torch.cat([image, image.flip(3), image.flip(2)])
    points_xy = torch.stack([points, points.flip(0), points / 2])
    with torch.no_grad():
        embedding = sam.image_encoder(images)
        together = decode_points(sam, embedding, points_xy)
        for index in range(3):
            alone = decode_points(sam, embedding[index : index + 1], points_xy[index : index + 1])
            rows = slice(10 * index, 10 * index + 10)
            for name in ("score", "hyper", "keys"):
                found, expected = getattr(together, name)[rows], getattr(alone, name)
                assert float((found - expected).abs().max()) <= 1e-5 * spread(expected), name
    assert spread(together.score[:10] - together.score[10:20]) > 0.01


@pytest.mark.parametrize("origin", [(0, 0), (3, 1), (2, 4)], ids=str)
def test_a_window_is_decoded_at_its_place_in_the_frame(origin: tuple[int, int]):
    """Positions and points are the frame's: a model of the whole frame with the rest cut away."""
    sam, _, _ = drawn(WIDE, 112, 1)
    generator = torch.Generator().manual_seed(109)
    window = torch.randn(1, 256, 3, 2, generator=generator)
    points = torch.rand(1, 5, 2, generator=generator) * torch.tensor([32.0, 48.0])
    top, left = origin
    with torch.no_grad():
        found = decode_points(sam, window, points, torch.tensor([origin]))
        expected = plain_on_window(sam, window, points[0] + 16 * torch.tensor([left, top]), origin)
    for ours, theirs in zip((found.score, found.keys), expected, strict=True):
        assert float((ours - theirs).abs().max()) <= 1e-5 * spread(theirs)


def plain_on_window(
    sam: Sam, window: Tensor, points_xy: Tensor, origin: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Scores and keys by SAM's transformer, given the window's part of the dense encoding."""
    top, left = origin
    height, width = grid_of(window)
    position = sam.prompt_encoder.get_dense_pe()[:, :, top : top + height, left : left + width]
    count = len(points_xy)
    sparse, _ = sam.prompt_encoder((points_xy[:, None], torch.ones(count, 1)), None, None)
    decoder = sam.mask_decoder
    own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    tokens = torch.cat([own.expand(count, -1, -1), sparse], dim=1)
    image = window + sam.prompt_encoder.no_mask_embed.weight[0, :, None, None]
    queries, keys = decoder.transformer(
        image.expand(count, -1, -1, -1), position.expand(count, -1, -1, -1), tokens
    )
    return decoder.iou_prediction_head(queries[:, 0])[:, 0], keys


def test_encoding_and_decoding_train_together():
    """The gradient of a window reaches every weight that a whole frame's reaches."""
    sam, image, points = drawn(WIDE, 112, 7)
    origins = torch.tensor([[1, 2]])
    embedding = encode_window(sam.image_encoder, image[:, :, :80, :64], origins)
    decoded = decode_points(sam, embedding, points[None] / 2, origins)
    masks = upscale_masks(sam, decoded.keys, decoded.hyper, (5, 4))
    torch.autograd.backward(masks.square().mean() + decoded.score.square().mean())
    silent = {
        name
        for name, p in sam.named_parameters()
        if p.grad is None or not bool(torch.isfinite(p.grad).all())
    }
    read_by_none = ("mask_downscaling", "point_embeddings.0", "point_embeddings.2")
    more = ("point_embeddings.3", "hypernetworks_mlps.1", "hypernetworks_mlps.2", "mlps.3")
    dropped = ("token_to_image.k_proj.bias",)  # the softmax drops a key's bias
    assert {
        name for name in silent if not any(part in name for part in read_by_none + more + dropped)
    } == set()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("count", [1, 13])
def test_what_stays_float32_is_sams_in_every_precision(dtype: torch.dtype, count: int):
    """Without a matrix product where others are in fewer bits: the same function to rounding."""
    sam, _, points = drawn(WIDE, 112, count)
    points = points * torch.tensor([1.0, 0.7])  # x and y in their own ranges
    token = torch.randn(count, 256, generator=torch.Generator().manual_seed(113))
    prompt, head = sam.prompt_encoder, sam.mask_decoder.iou_prediction_head
    with torch.no_grad():
        positions = prompt.pe_layer.forward_with_coords(points[:, None], (112, 112))
        pairs = [
            (point_positions(prompt, points, dtype), positions),
            (score_of(head, token, dtype), head(token)),
        ]
    for ours, theirs in pairs:
        assert ours.shape == theirs.shape
        assert ours.dtype == torch.float32
        assert float((ours - theirs).abs().max()) <= 1e-5 * spread(theirs)


def test_autocast_leaves_positions_as_they_are(monkeypatch: pytest.MonkeyPatch):
    """Of the grid and of the points: in bf16 an angle of tens of radians is off by a tenth."""
    sam, image, points = drawn(WIDE, 112, 13)
    pe_layer = sam.prompt_encoder.pe_layer
    encode, seen = pe_layer._pe_encoding, []
    monkeypatch.setattr(
        pe_layer, "_pe_encoding", lambda coords: seen.append(encode(coords)) or seen[-1]
    )
    with torch.no_grad():
        embedding = encode_window(sam.image_encoder, image)
        for precision in (nullcontext(), torch.autocast("cpu", torch.bfloat16)):
            with precision:
                decode_points(sam, embedding, points[None])
    exact, rounded = seen[:2], seen[2:]
    assert len(exact) == len(rounded) == 2
    for ours, theirs in zip(rounded, exact, strict=True):
        assert torch.equal(ours, theirs)
