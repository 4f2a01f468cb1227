"""A LoRA's pairs beside the encoder they belong to, and a bundle's SAM read back.

In a swappable bundle the encoder is the frozen SAM's and the pairs are its inputs; prompt encoder
and mask decoder have the LoRA merged. May import torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from segment_anything.modeling import Sam
from torch import Tensor
from torch.nn import functional

from cellseg1_rt.backbone import Backbone
from cellseg1_rt.contract import DECODER_NAME, WEIGHTS_NAME, Manifest
from cellseg1_rt.graph_specs import PAIRS
from cellseg1_rt.lora_pairs import Pairs, pairs_in
from cellseg1_rt.model.lora_layout import lora_sites
from cellseg1_rt.model.weights import read_sam_state, read_tensors, sam_of

__all__ = ["ENCODER_PREFIX", "EncoderPairs", "load_bundle_sam", "load_frozen_sam"]

ENCODER_PREFIX = "image_encoder."
"""What the names of the weights begin with that a swappable bundle keeps frozen."""


@dataclass(frozen=True)
class EncoderPairs:
    """A and B of every block's q and v; q of block i is at 2i, v at 2i + 1.

    Attributes
    ----------
    a : float32 [2·depth, r, d].
    b : float32 [2·depth, d, r].
    """

    a: Tensor
    b: Tensor

    @classmethod
    def of_lora(cls, state: Mapping[str, Tensor], backbone: Backbone) -> EncoderPairs:
        """Those of a LoRA in upstream's layout."""
        sites = lora_sites(backbone.depth, backbone.embed_dim)
        inside = [site for site in sites if site.module.startswith(ENCODER_PREFIX)]
        return cls(
            torch.stack([state[site.a_key] for site in inside]),
            torch.stack([state[site.b_key] for site in inside]),
        )

    @classmethod
    def in_folder(cls, bundle: Path) -> EncoderPairs:
        """Those of a swappable bundle."""
        pairs = pairs_in(bundle)
        return cls(*(torch.from_numpy(pairs[name]) for name in PAIRS))

    def to_arrays(self) -> Pairs:
        """The same as a bundle keeps them."""
        return dict(zip(PAIRS, (self.a.numpy(), self.b.numpy()), strict=True))

    def factors(self, dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
        """For each block, what maps its tokens to 2r numbers, and those to what qkv is off by.

        Returns
        -------
        down : [2r, d], A of q over A of v.
        up : [3d, 2r], B of q in the first d rows and r columns, B of v in the last ones.
        """
        of_q, of_v = self.b.to(dtype).unflatten(0, (-1, 2)).unbind(1)
        width, rank = of_q.shape[1:]
        up = functional.pad(of_q, (0, rank, 0, 2 * width)) + functional.pad(
            of_v, (rank, 0, 2 * width, 0)
        )
        down = self.a.to(dtype).reshape(-1, 2 * rank, width)
        return list(zip(down, up, strict=True))


def load_frozen_sam(bundle: Path, manifest: Manifest) -> Sam:
    """The SAM whose graphs a bundle has, in float32: a swappable one's without pairs.

    Raises
    ------
    WeightsError : if a file of weights is damaged.
    """
    form = manifest.backbone, manifest.image_size
    state = read_sam_state(bundle / WEIGHTS_NAME, *form)
    if manifest.lora_rank is not None:
        state |= read_tensors(bundle / DECODER_NAME)
    return sam_of(state, *form)


def load_bundle_sam(bundle: Path, manifest: Manifest) -> Sam:
    """The SAM that a bundle computes, in float32: pairs are added to the encoder's weights.

    Product and sum are float64 and are rounded once, as a merge does it.

    Raises
    ------
    WeightsError : if a file of weights is damaged.
    BundleError : if the pairs cannot be read.
    """
    sam = load_frozen_sam(bundle, manifest)
    if manifest.lora_rank is None:
        return sam
    factors = EncoderPairs.in_folder(bundle).factors(torch.float64)
    for block, (down, up) in zip(sam.image_encoder.blocks, factors, strict=True):
        weight = block.attn.qkv.weight
        weight.data = (weight.data.double() + up @ down).to(weight.dtype)
    return sam
