"""SAM as its authors run it: PyTorch, float32, segment-anything's modules, 64 prompts a batch.

May import torch and segment-anything.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from cellseg1_rt.contract import Manifest
from cellseg1_rt.geometry import Crop, input_size_of_crop
from cellseg1_rt.model.pairs import load_bundle_sam

__all__ = ["BATCH", "PlainModel", "upsampled"]

BATCH = 64
"""segment-anything's default ``points_per_batch``, which CellSeg1 keeps."""


class PlainModel:
    """The bundle's weights in segment-anything's modules.

    Parameters
    ----------
    bundle : the bundle's folder; its weights are read, fp16 widened, a LoRA's pairs merged.
    manifest : its manifest.
    """

    def __init__(self, bundle: Path, manifest: Manifest) -> None:
        self.image_size = manifest.image_size
        self.sam: Any = load_bundle_sam(bundle, manifest)
        self.sam.requires_grad_(False)

    def prepare(self, rgb: NDArray[np.uint8], crop: Crop) -> tuple[Tensor, tuple[int, int]]:
        """The encoder's input float32 [1, 3, S, S] for a crop, and its valid (height, width)."""
        height, width = input_size_of_crop(crop, self.image_size)
        window = Image.fromarray(rgb[crop.y0 : crop.y1, crop.x0 : crop.x1])
        resized = np.array(window.resize((width, height), Image.Resampling.BILINEAR))
        pixels = torch.from_numpy(resized).permute(2, 0, 1).contiguous()[None]
        return self.sam.preprocess(pixels), (height, width)

    @torch.no_grad()
    def embed(self, pixels: Tensor) -> Tensor:
        """The embedding float32 [1, 256, g, g]."""
        embedding: Tensor = self.sam.image_encoder(pixels)
        return embedding

    @torch.no_grad()
    def predict(self, embedding: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """Scores float32 [N] and low-resolution logits float32 [N, 1, S/4, S/4].

        ``points`` float32 [N, 2], (x, y) in input pixels, each a prompt of its own.
        """
        label = torch.ones(len(points), 1, dtype=torch.int)
        sparse, dense = self.sam.prompt_encoder(
            points=(points[:, None], label), boxes=None, masks=None
        )
        logits, scores = self.sam.mask_decoder(
            image_embeddings=embedding,
            image_pe=self.sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
        return scores[:, 0], logits


def upsampled(logits: Tensor, model_px: int, valid: tuple[int, int], crop: Crop) -> Tensor:
    """Every mask at the crop's size, float32 [N, h, w], as ``Sam.postprocess_masks`` does it."""
    full = functional.interpolate(
        logits, (model_px, model_px), mode="bilinear", align_corners=False
    )
    full = full[..., : valid[0], : valid[1]]
    size = (crop.height, crop.width)
    return functional.interpolate(full, size, mode="bilinear", align_corners=False)[:, 0]
