"""What training is said to take is what it takes, about."""

from __future__ import annotations

import pytest
import torch
from drawing import draw_weights

from cellseg1_rt.backbone import Backbone
from cellseg1_rt.model.encoding import encode_window
from cellseg1_rt.model.lora import add_lora
from cellseg1_rt.model.sam import build_sam
from cellseg1_rt.recipes import read_recipe
from cellseg1_rt.train.lora_memory import encoder_bytes, memory_mb, tiles_that_fit

DEEP = Backbone("deep", 96, 6, 3, (2, 5), 5)


def kept_bytes(backbone: Backbone, size: int, precision: str, tiles: int) -> int:
    """Bytes of the tensors that autograd keeps for some tiles, each storage once.

    Without dropout, whose mask takes four bytes an element on a CPU and one on a card.
    """
    sam = draw_weights(add_lora(build_sam(backbone, size), dropout=0.0), 3).train()
    weights = {tensor.untyped_storage().data_ptr() for tensor in sam.state_dict().values()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    pixels = torch.randn(tiles, 3, size, size)
    context = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), context:
        embedding = encode_window(sam.image_encoder, pixels, way="fused")
        assert embedding.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("size", [208, 336])
def test_the_estimate_is_what_autograd_keeps(precision: str, size: int):
    one, three = (kept_bytes(DEEP, size, precision, tiles) for tiles in (1, 3))
    estimate = encoder_bytes(DEEP, size, precision, checkpointing=False)
    assert (three - one) / 2 == pytest.approx(estimate, rel=0.15)


def shipped(name: str) -> Backbone:
    return Backbone.from_dict(read_recipe("export", name)["backbone"])


def test_vit_h_fits_a_card_of_8_gb():
    """2.6 GB of weights leave 5.4 GB: a tile in fp32, the whole batch with checkpointing."""
    free = 5_400_000_000
    backbone = shipped("vit_h")
    plain, frugal = (
        encoder_bytes(backbone, 512, "fp32", checkpointing=checkpointing)
        for checkpointing in (False, True)
    )
    assert plain < 0.9 * free - 1e9
    assert tiles_that_fit(free, plain, 4) == 1
    assert tiles_that_fit(free, frugal, 4) == 4


@pytest.mark.parametrize(
    "free, expected", [(0, 1), (3_000_000_000, 1), (5_000_000_000, 3), (80_000_000_000, 4)]
)
def test_tiles_that_fit(free: int, expected: int):
    assert tiles_that_fit(free, 1_000_000_000, 4) == expected


def test_this_process_uses_memory():
    assert 50 < memory_mb(torch.device("cpu")) < 1e6
