"""One step's loss and gradients are those of the recipe in plain PyTorch, dropout's places too."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch
from annotated import disks, sample_of_disks
from drawing import draw_weights
from reference import training
from segment_anything.modeling import Sam
from torch import Tensor, nn

from cellseg1_rt.backbone import Backbone
from cellseg1_rt.model.lora import (
    LoraLinear,
    add_lora,
    head_parameters,
    lora_parameters,
    lora_state,
)
from cellseg1_rt.model.lora_layout import lora_sites
from cellseg1_rt.model.sam import build_sam
from cellseg1_rt.train.lora_loss import TileTensors, tensors_from_sample
from cellseg1_rt.train.lora_samples import LoraSample
from cellseg1_rt.train.lora_step import StepOptions, add_gradients, predict

PADDED = Backbone("padded", 48, 3, 3, (1,), 5)  # 7 tokens a side in windows of 5
GLOBAL = Backbone("global", 26, 2, 2, (0, 1), 3)
SIZE = 112
WHOLE = StepOptions(tiles_at_once=3, points_at_once=97)
FINAL_QUERY = "mask_decoder.transformer.final_attn_token_to_image.q_proj"


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class FixedDropout(nn.Module):
    """Drops what a mask drawn from the layer's name says, so that two models drop the same."""

    p = 0.25

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, values: Tensor) -> Tensor:
        shape = list(values.shape)
        if self.name == FINAL_QUERY:
            shape[1] = 7  # of the seven tokens only two are read in the end
        generator = torch.Generator().manual_seed(zlib.crc32(self.name.encode()))
        kept = torch.rand(shape, generator=generator) >= self.p
        return values * kept[:, : values.shape[1]] / (1 - self.p)


def lora_sam(backbone: Backbone, seed: int, dropout: float = 0.0) -> Sam:
    """A SAM whose LoRA is drawn, B included, in training mode."""
    return draw_weights(add_lora(build_sam(backbone, SIZE), 4, dropout), seed).train()


def plain_of(sam: Sam, backbone: Backbone, **options) -> tuple[Sam, dict[str, nn.Parameter]]:
    """The same weights in segment-anything's modules, with LoRA as upstream has it."""
    plain = build_sam(backbone, SIZE)
    frozen = {
        key.replace(".frozen.", "."): value
        for key, value in sam.state_dict().items()
        if ".updates." not in key
    }
    plain.load_state_dict(frozen)
    return plain, training.add_lora(plain, lora_state(sam), **options)


def gradients_of(sam: Sam, backbone: Backbone) -> dict[str, Tensor]:
    """By names in a LoRA file."""
    sites = lora_sites(backbone.depth, backbone.embed_dim)
    names = [key for site in sites for key in (site.a_key, site.b_key)]
    return {name: p.grad.clone() for name, p in zip(names, lora_parameters(sam), strict=True)}


def require_close(
    found: dict[str, Tensor], expected: dict[str, Tensor], share: float = 1e-5
) -> None:
    assert found.keys() == expected.keys()
    largest = max(float(values.abs().max()) for values in expected.values())
    for name, values in expected.items():
        assert float(values.abs().max()) > 0, name
        assert float((found[name] - values).abs().max()) <= share * largest, name


def samples() -> list[LoraSample]:
    return [sample_of_disks(seed, SIZE, points) for seed, points in ((2, 7), (3, 11), (5, 5))]


def tensors(drawn: Sequence[LoraSample]) -> list[TileTensors]:
    return [tensors_from_sample(sample) for sample in drawn]


def run_both(
    sam: Sam, plain: Sam, parameters: dict[str, nn.Parameter], options: StepOptions = WHOLE
):
    """(ours, plain): losses and gradients, both divided by 8."""
    sam.zero_grad(set_to_none=True)
    losses = add_gradients(sam, tensors(samples()), options, 8)
    score, mask = training.batch_loss(plain, samples())
    torch.autograd.backward((score + mask) / 8)
    expected = {name: p.grad.clone() for name, p in parameters.items()}
    return (losses.score, losses.mask), (float(score), float(mask)), expected


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(WHOLE, id="all-at-once"),
        pytest.param(StepOptions(2, 3), id="2-tiles-3-points"),
        pytest.param(StepOptions(1, 97, checkpointing=True), id="checkpointing"),
    ],
)
@pytest.mark.parametrize("backbone", [PADDED, GLOBAL], ids=lambda backbone: backbone.name)
@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad")
def test_a_step_is_the_plain_one(backbone: Backbone, options: StepOptions):
    sam = lora_sam(backbone, 11)
    plain, parameters = plain_of(sam, backbone)
    found, expected, gradients = run_both(sam, plain, parameters, options)
    assert found == pytest.approx(expected, rel=1e-5)
    require_close(gradients_of(sam, backbone), gradients)


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad")
def test_gradients_of_the_heads_are_the_plain_ones():
    """Of every tensor of theirs that the one mask and its score depend on, and of no other."""
    sam = lora_sam(PADDED, 11)
    for parameter in head_parameters(sam):
        parameter.requires_grad_()
    plain, parameters = plain_of(sam, PADDED)
    for name, parameter in plain.mask_decoder.named_parameters():
        if not name.startswith("transformer."):
            parameter.requires_grad_()
    run_both(sam, plain, parameters)
    heads = {
        name: (sam.get_parameter(name), parameter)
        for name, parameter in plain.named_parameters()
        if name.startswith("mask_decoder.") and ".transformer." not in name
    }
    assert {id(found) for found, _ in heads.values()} == {id(p) for p in head_parameters(sam)}
    # What of the four masks and scores is not read has no gradient, or one of exact zeros.
    for name, (found, expected) in list(heads.items()):
        if not expected.grad.any():
            assert found.grad is None or not found.grad.any(), name
            del heads[name]
    assert {name.split(".")[1] for name in heads} == {
        *("iou_token", "mask_tokens", "output_upscaling"),
        *("output_hypernetworks_mlps", "iou_prediction_head"),
    }
    require_close(
        {name: found.grad for name, (found, _) in heads.items()},
        {name: expected.grad for name, (_, expected) in heads.items()},
    )


@pytest.mark.parametrize("backbone", [PADDED, GLOBAL], ids=lambda backbone: backbone.name)
@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad")
def test_dropout_is_where_upstream_has_it(backbone: Backbone):
    """Both drop the same elements of every sum: all of qkv, padded tokens, each prompt's own."""
    sam = lora_sam(backbone, 13, 0.25)
    for name, module in sam.named_modules():
        if isinstance(module, LoraLinear):
            module.dropout = FixedDropout(name)
    plain, parameters = plain_of(sam, backbone, dropout=FixedDropout)
    found, expected, gradients = run_both(sam, plain, parameters)
    assert found == pytest.approx(expected, rel=1e-5)
    require_close(gradients_of(sam, backbone), gradients, share=3e-5)


LAYERS = [
    "image_encoder.blocks.0.attn.qkv",
    "image_encoder.blocks.1.attn.qkv",
    *(
        f"mask_decoder.transformer.layers.{layer}.{place}.{part}"
        for layer in (0, 1)
        for place in ("self_attn", "cross_attn_token_to_image", "cross_attn_image_to_token")
        for part in ("q_proj", "v_proj")
    ),
    FINAL_QUERY,
    FINAL_QUERY.replace("q_proj", "v_proj"),
]


@pytest.mark.parametrize("layer", LAYERS)
def test_the_comparison_sees_every_layers_dropout(layer: str):
    """Without dropout in one layer the scores and masks above would be others."""
    sam = lora_sam(PADDED, 13, 0.25)
    for name, module in sam.named_modules():
        if isinstance(module, LoraLinear):
            module.dropout = FixedDropout(name)
    (tile,) = tensors(samples()[:1])
    before = predict(sam, tile, WHOLE)
    sam.get_submodule(layer).dropout = nn.Identity()
    sam.get_submodule(layer).dropout.p = 0.25
    after = predict(sam, tile, WHOLE)
    assert any(float((a - b).abs().max()) > 1e-4 for a, b in zip(after, before, strict=True))


def test_dropout_is_another_for_every_prompt():
    sam = lora_sam(PADDED, 17, 0.25)
    sample = samples()[0]
    same = LoraSample(
        sample.image,
        sample.labels,
        np.repeat(sample.points_xy[:1], 3, axis=0),
        np.repeat(sample.cell[:1], 3),
    )
    (tile,) = tensors([same])
    torch.manual_seed(3)
    score, logits = predict(sam, tile, WHOLE)
    assert len(set(score.tolist())) == 3
    assert not torch.equal(logits[0], logits[1])
    score, logits = predict(sam.eval(), tile, WHOLE)
    torch.testing.assert_close(score, score[:1].expand(3))
    torch.testing.assert_close(logits, logits[:1].expand(3, -1, -1))


def test_zeros_of_each_third_and_of_padded_tokens():
    """Seen from inside: what reaches attention in a padded window."""
    sam = lora_sam(PADDED, 19, 0.25)
    seen: list[Tensor] = []
    qkv = sam.image_encoder.blocks[0].attn.qkv
    qkv.dropout.register_forward_hook(lambda _, inputs, output: seen.append(output.detach()))
    predict(sam, tensors(samples())[0], WHOLE)
    (windows,) = seen
    assert windows.shape == (4, 5, 5, 3 * 48)  # 10 tokens a side, of which 3 are padding
    for third in windows.unflatten(3, (3, 48)).unbind(3):
        assert float((third == 0).float().mean()) == pytest.approx(0.25, abs=0.03)
        padding = third[1, :, 2:]  # columns 7 to 9 of the frame
        assert float((padding == 0).float().mean()) == pytest.approx(0.25, abs=0.06)


def test_what_bf16_rounds():
    sam = lora_sam(PADDED, 23)
    tiles = tensors(samples())
    exact = add_gradients(sam, tiles, WHOLE, 8)
    expected = gradients_of(sam, PADDED)
    sam.zero_grad(set_to_none=True)
    rounded = add_gradients(sam, tiles, StepOptions(3, 97, precision="bf16"), 8)
    assert rounded.total == pytest.approx(exact.total, rel=0.02)
    assert rounded.total != exact.total
    assert {p.grad.dtype for p in lora_parameters(sam)} == {torch.float32}
    require_close(gradients_of(sam, PADDED), expected, share=0.1)


def test_checkpointing_repeats_dropout():
    """What is computed again for the gradients drops the same elements as before."""
    sam = lora_sam(PADDED, 29, 0.1)
    tiles = tensors(samples())
    results = []
    for checkpointing in (False, True):
        sam.zero_grad(set_to_none=True)
        torch.manual_seed(5)
        losses = add_gradients(sam, tiles, StepOptions(3, 97, checkpointing=checkpointing), 8)
        results.append((losses, gradients_of(sam, PADDED)))
    (one, of_one), (other, of_other) = results
    assert one == other
    require_close(of_other, of_one, share=1e-6)


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad")
def test_a_batch_without_cells_has_no_mask_loss():
    sam = lora_sam(GLOBAL, 31)
    plain, parameters = plain_of(sam, GLOBAL)
    image, labels = disks(2, SIZE, SIZE)
    empty = LoraSample(
        image,
        np.zeros_like(labels),
        np.array([[3, 5], [89, 61]], np.float32),
        np.zeros(2, np.int32),
    )
    losses = add_gradients(sam, tensors([empty]), WHOLE, 1)
    score, mask = training.batch_loss(plain, [empty])
    torch.autograd.backward(score)
    assert (losses.score, losses.mask) == pytest.approx((float(score), 0.0))
    assert mask == 0
    largest = max(float(p.grad.abs().max()) for p in parameters.values() if p.grad is not None)
    for name, found in gradients_of(sam, GLOBAL).items():
        expected = parameters[name].grad
        expected = torch.zeros_like(found) if expected is None else expected
        assert float((found - expected).abs().max()) <= 1e-5 * largest, name


def test_only_the_lora_gets_gradients():
    sam = lora_sam(PADDED, 37)
    add_gradients(sam, tensors(samples()), WHOLE, 8)
    own = {id(p) for p in lora_parameters(sam)}
    assert {id(p) for p in sam.parameters() if p.grad is not None} == own


def test_predictions_are_the_models():
    sam = lora_sam(PADDED, 41)
    plain, _ = plain_of(sam, PADDED)
    sample = samples()[1]
    (tile,) = tensors([sample])
    found, logits = predict(sam, tile, StepOptions(1, 4))
    with torch.no_grad():
        embedding = plain.image_encoder(tile.pixels[None])
        score, masks = training.predict_tile(plain, embedding, tile.points_xy)
    torch.testing.assert_close(found, score, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits, masks[: tile.masked], rtol=1e-4, atol=1e-4)
