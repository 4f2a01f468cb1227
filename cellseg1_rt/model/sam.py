"""SAM at any image size, from the ``segment-anything`` package's own modules.

Meta's checkpoints are made for 1,024 px; ``resize_positions`` brings them to another size as
CellSeg1 does. Reading files is ``weights.py``.
"""

from __future__ import annotations

from functools import partial

import torch
from segment_anything.modeling import (
    ImageEncoderViT,
    MaskDecoder,
    PromptEncoder,
    Sam,
    TwoWayTransformer,
)
from torch.nn import functional

from cellseg1_rt.backbone import PATCH_SIZE, Backbone
from cellseg1_rt.errors import ConfigError

__all__ = ["build_sam", "resize_positions"]

EMBEDDING_CHANNELS = 256


def build_sam(backbone: Backbone, image_size: int = 512) -> Sam:
    """A SAM with fresh weights, in eval mode, on the CPU, float32.

    Parameters
    ----------
    backbone : shape of the image encoder.
    image_size : side of the square input in px, a multiple of 16.

    Raises
    ------
    ConfigError : on an image size that is not a positive multiple of the patch size.
    """
    if not isinstance(image_size, int) or image_size < PATCH_SIZE or image_size % PATCH_SIZE:
        raise ConfigError(
            "not a multiple of the patch size",
            where="image_size",
            got=image_size,
            expected=f"a positive multiple of {PATCH_SIZE}",
        )
    grid = image_size // PATCH_SIZE
    sam = Sam(
        image_encoder=ImageEncoderViT(
            img_size=image_size,
            patch_size=PATCH_SIZE,
            embed_dim=backbone.embed_dim,
            depth=backbone.depth,
            num_heads=backbone.num_heads,
            mlp_ratio=4,
            qkv_bias=True,
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            global_attn_indexes=backbone.global_attn_indexes,
            window_size=backbone.window_size,
            out_chans=EMBEDDING_CHANNELS,
        ),
        prompt_encoder=PromptEncoder(
            embed_dim=EMBEDDING_CHANNELS,
            image_embedding_size=(grid, grid),
            input_image_size=(image_size, image_size),
            mask_in_chans=16,
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(
                depth=2, embedding_dim=EMBEDDING_CHANNELS, mlp_dim=2048, num_heads=8
            ),
            transformer_dim=EMBEDDING_CHANNELS,
            iou_head_depth=3,
            iou_head_hidden_dim=256,
        ),
    )
    return sam.eval()


def resize_positions(
    state: dict[str, torch.Tensor], backbone: Backbone, image_size: int
) -> dict[str, torch.Tensor]:
    """Weights of one image size brought to another, as CellSeg1 does it.

    ``pos_embed`` is resized bilinearly (align_corners=True) to the new grid, and so are the rel-pos
    tables of the global blocks, to 2·grid - 1 rows. Windowed blocks keep theirs: their windows do
    not grow with the image. The input is not modified; untouched tensors are shared.
    """
    grid = image_size // PATCH_SIZE
    resized = dict(state)
    key = "image_encoder.pos_embed"
    if key in state and state[key].shape[1:3] != (grid, grid):
        positions = state[key].permute(0, 3, 1, 2).float()
        positions = functional.interpolate(
            positions, size=(grid, grid), mode="bilinear", align_corners=True
        )
        resized[key] = positions.permute(0, 2, 3, 1).contiguous()
    rows = 2 * grid - 1
    for index in backbone.global_attn_indexes:
        for axis in ("h", "w"):
            key = f"image_encoder.blocks.{index}.attn.rel_pos_{axis}"
            if key in state and state[key].shape[0] != rows:
                # Bilinear over an image one pixel wide: linear over the rows, channel by channel.
                table = state[key].float().T[None, :, :, None]
                table = functional.interpolate(
                    table, size=(rows, 1), mode="bilinear", align_corners=True
                )
                resized[key] = table[0, :, :, 0].T.contiguous()
    return resized
