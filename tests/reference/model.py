"""SAM in plain PyTorch as a predictor, from merged weights in SAM's own key layout, in float32.

The modules are segment-anything's own, called one after another. Three facts of the model live in
that package, as its source shows: ``PromptEncoder._embed_points`` adds the 0.5 px to every point
and, where no box is given, appends the padding point (label -1, the "not a point" embedding);
``MaskDecoder.predict_masks`` repeats the image embedding for each prompt itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from segment_anything.modeling import (
    ImageEncoderViT,
    MaskDecoder,
    PromptEncoder,
    Sam,
    TwoWayTransformer,
)

PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)
PATCH_PX = 16
EMBED_DIM = 256


def build_sam(backbone: Mapping[str, Any], state: Mapping[str, torch.Tensor] | None = None) -> Sam:
    """SAM for a backbone, in evaluation mode, float32.

    Parameters
    ----------
    backbone : embed_dim, depth, num_heads, global_attn_indexes (list of int), window_size and
        image_size (px, a multiple of 16).
    state : merged weights by SAM's names, already at this image size; every tensor must be there.
        Without it the weights stay as PyTorch draws them.
    """
    grid = backbone["image_size"] // PATCH_PX
    sam = Sam(
        image_encoder=ImageEncoderViT(
            img_size=backbone["image_size"],
            patch_size=PATCH_PX,
            embed_dim=backbone["embed_dim"],
            depth=backbone["depth"],
            num_heads=backbone["num_heads"],
            mlp_ratio=4,
            out_chans=EMBED_DIM,
            qkv_bias=True,
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=backbone["window_size"],
            global_attn_indexes=tuple(backbone["global_attn_indexes"]),
        ),
        prompt_encoder=PromptEncoder(
            embed_dim=EMBED_DIM,
            image_embedding_size=(grid, grid),
            input_image_size=(backbone["image_size"], backbone["image_size"]),
            mask_in_chans=16,
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(
                depth=2, embedding_dim=EMBED_DIM, mlp_dim=2048, num_heads=8
            ),
            transformer_dim=EMBED_DIM,
            iou_head_depth=3,
            iou_head_hidden_dim=256,
        ),
    )
    if state is not None:
        sam.load_state_dict({name: tensor.float() for name, tensor in state.items()}, strict=True)
    return sam.float().eval().requires_grad_(False)


class Predictor:
    """A SAM that answers point prompts, for `reference.inference.segment`."""

    def __init__(self, sam: Sam) -> None:
        self.sam = sam
        self.image_size: int = sam.image_encoder.img_size

    def embed(self, image: np.ndarray) -> torch.Tensor:
        """Embedding float32 [1, 256, g, g] of uint8 [h, w, 3] RGB, whose longest side is S.

        "Normalisation: RGB, mean, std, then zero-pad right and bottom to a square (the pad is zero
        *after* normalisation)".
        """
        pixels = torch.from_numpy(np.array(image)).float()
        normal = (pixels - torch.tensor(PIXEL_MEAN)) / torch.tensor(PIXEL_STD)
        square = torch.zeros(1, 3, self.image_size, self.image_size)
        square[0, :, : image.shape[0], : image.shape[1]] = normal.permute(2, 0, 1)
        with torch.no_grad():
            return self.sam.image_encoder(square)

    def predict(
        self, embedding: torch.Tensor, points: np.ndarray, batch: int = 64
    ) -> tuple[np.ndarray, np.ndarray]:
        """(scores float32 [N], logits float32 [N, 4g, 4g]) of points [N, 2] (x, y), input pixels.

        "One positive point per prompt", "multimask_output=False: mask token 0 and IoU output 0".
        """
        scores, logits = [], []
        for start in range(0, len(points), batch):
            some = torch.from_numpy(np.array(points[start : start + batch], np.float32))[:, None, :]
            score, logit = self._predict_batch(embedding, some)
            scores.append(score)
            logits.append(logit)
        return np.concatenate(scores), np.concatenate(logits)

    def _predict_batch(
        self, embedding: torch.Tensor, points: torch.Tensor
    ) -> tuple[np.ndarray, np.ndarray]:
        positive = torch.ones(points.shape[:2], dtype=torch.int)
        with torch.no_grad():
            sparse, dense = self.sam.prompt_encoder(
                points=(points, positive), boxes=None, masks=None
            )
            masks, iou = self.sam.mask_decoder(
                image_embeddings=embedding,
                image_pe=self.sam.prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=False,
            )
        return iou[:, 0].numpy(), masks[:, 0].numpy()

    def __call__(self, image: np.ndarray, points: Sequence) -> tuple[np.ndarray, np.ndarray]:
        """Both at once: the ``predict`` argument of `reference.inference.segment`."""
        return self.predict(self.embed(image), np.asarray(points, np.float32))
