"""Where CellSeg1's LoRA sits in a SAM, and what its tensors are called in a file.

Upstream keeps a flat dict: ``w_a_000`` and ``w_b_000`` onwards for the image encoder (q of block i
at 2i, v at 2i + 1); ``sa_``, ``cti_`` and ``cit_`` for self-attention, token to image and image to
token in the mask decoder (q of layer j at 2j, v at 2j + 1); ``fati_qa``, ``fati_qb``, ``fati_va``
and ``fati_vb`` for the final token-to-image attention. Imports the standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LoraSite", "is_replaced", "lora_sites"]

DECODER_LAYERS = 2
DECODER_WIDTH = 256
# The cross attentions of SAM's decoder halve the width (attention_downsample_rate 2).
CROSS_WIDTH = 128


@dataclass(frozen=True)
class LoraSite:
    """One product B·A and the rows of the SAM weight it is added to.

    Attributes
    ----------
    a_key, b_key : names of A [rank, in_features] and B [out_features, rank] in a LoRA file.
    module : name of the linear layer in SAM; its weight is ``weight_key``.
    first_row : row of the weight where the product's first row is added.
    in_features, out_features : columns and rows of the product.
    """

    a_key: str
    b_key: str
    module: str
    first_row: int
    in_features: int
    out_features: int

    @property
    def weight_key(self) -> str:
        """Name of the weight in SAM's own layout."""
        return f"{self.module}.weight"


def is_replaced(key: str) -> bool:
    """Whether a LoRA file holds a full copy of this SAM tensor, which replaces SAM's."""
    outside = key.startswith("mask_decoder.") and not key.startswith("mask_decoder.transformer.")
    return outside or key.startswith("prompt_encoder.")


def lora_sites(depth: int, width: int) -> list[LoraSite]:
    """Every site of a LoRA on a SAM whose encoder has ``depth`` blocks of ``width`` channels.

    The fused ``qkv`` weight is [3·width, width] with q in the first third and v in the last.
    """
    sites = []
    for block in range(depth):
        module = f"image_encoder.blocks.{block}.attn.qkv"
        for index, first_row in ((2 * block, 0), (2 * block + 1, 2 * width)):
            names = f"w_a_{index:03d}", f"w_b_{index:03d}"
            sites.append(LoraSite(*names, module, first_row, width, width))
    transformer = "mask_decoder.transformer"
    for prefix, attention, out_features in (
        ("sa", "self_attn", DECODER_WIDTH),
        ("cti", "cross_attn_token_to_image", CROSS_WIDTH),
        ("cit", "cross_attn_image_to_token", CROSS_WIDTH),
    ):
        for layer in range(DECODER_LAYERS):
            for index, part in ((2 * layer, "q"), (2 * layer + 1, "v")):
                names = f"{prefix}_a_{index:03d}", f"{prefix}_b_{index:03d}"
                module = f"{transformer}.layers.{layer}.{attention}.{part}_proj"
                sites.append(LoraSite(*names, module, 0, DECODER_WIDTH, out_features))
    for part in ("q", "v"):
        module = f"{transformer}.final_attn_token_to_image.{part}_proj"
        names = f"fati_{part}a", f"fati_{part}b"
        sites.append(LoraSite(*names, module, 0, DECODER_WIDTH, CROSS_WIDTH))
    return sites
