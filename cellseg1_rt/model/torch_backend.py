"""A SAM in PyTorch in a runtime's place: what training shows, and what precisions are judged by.

It has the three calls of ``backends/base.py`` and computes with the functions that are exported.
May import torch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from segment_anything.modeling import Sam
from torch import Tensor

from cellseg1_rt.model.decoding import decode_points
from cellseg1_rt.model.encoding import encode_window, normalised_pixels
from cellseg1_rt.model.upscaling import upscale_masks

__all__ = ["TorchBackend"]

CPU_PROMPTS, CARD_PROMPTS = 16, 64
"""At 64 prompts every product takes 64 MB at 512 px: on a CPU new pages each time, which cost more
than larger products save."""


@dataclass(frozen=True)
class _Decoded:
    score: NDArray[np.float32]
    hyper: Tensor
    keys: Tensor


class TorchBackend:
    """A SAM, on its own device and in its own precision.

    Parameters
    ----------
    sam : in eval mode; with or without a LoRA. Not changed.
    """

    def __init__(self, sam: Sam) -> None:
        self._sam = sam
        self._grid: tuple[int, int] = sam.prompt_encoder.image_embedding_size

    @property
    def image_size(self) -> int:
        """Side S of the square input in px."""
        return int(self._sam.image_encoder.img_size)

    @property
    def prompts_at_once(self) -> int:
        """Prompts a call of ``decode``: the quickest on a CPU, the usual number on a card."""
        return CPU_PROMPTS if self._sam.device.type == "cpu" else CARD_PROMPTS

    @torch.no_grad()
    def encode(self, images: NDArray[np.uint8], sizes: NDArray[np.int32]) -> list[Tensor]:
        """Embeddings, one an image; see ``Backend.encode``."""
        sam = self._sam
        pixels = normalised_pixels(
            torch.from_numpy(images).to(sam.device),
            torch.from_numpy(sizes).to(sam.device),
            sam.pixel_mean.reshape(3),
            sam.pixel_std.reshape(3),
        )
        return list(encode_window(sam.image_encoder, pixels).split(1))

    @torch.no_grad()
    def decode(self, embedding: Tensor, points: NDArray[np.float32]) -> _Decoded:
        """Scores of N points; see ``Backend.decode``."""
        points_xy = torch.from_numpy(points).to(embedding.device)
        decoded = decode_points(self._sam, embedding, points_xy[None])
        return _Decoded(decoded.score.float().cpu().numpy(), decoded.hyper, decoded.keys)

    @torch.no_grad()
    def head(self, decoded: _Decoded, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """Mask logits of the survivors; see ``Backend.head``."""
        chosen = torch.from_numpy(index).to(decoded.keys.device)
        logits = upscale_masks(self._sam, decoded.keys[chosen], decoded.hyper[chosen], self._grid)
        found: NDArray[np.float32] = logits.float().cpu().numpy()
        return found
