"""The modules that become the bundle's graphs: SAM's functions with less work, behind the contract.

The rewrites are ``model/encoding.py`` and ``model/decoding.py``, which training uses too. They
share the weights of the ``Sam`` they are made from. May import torch.
"""

from __future__ import annotations

import torch
from segment_anything.modeling import Sam
from torch import Tensor, nn

from cellseg1_rt.export.plain_graphs import PlainEncoder
from cellseg1_rt.model.decoding import decode_points
from cellseg1_rt.model.encoding import encode_window
from cellseg1_rt.model.upscaling import upscale_masks

__all__ = ["Encoder", "MaskHead", "PromptDecoder", "graph_modules"]


def graph_modules(sam: Sam) -> dict[str, torch.nn.Module]:
    """The contract's graphs as modules that share ``sam``'s weights, in eval mode."""
    return {
        "encoder": Encoder(sam).eval(),
        "prompt_decoder": PromptDecoder(sam).eval(),
        "mask_head": MaskHead(sam).eval(),
    }


class Encoder(PlainEncoder):
    """Bytes in, embedding out, through attentions that runtimes fuse."""

    def embed(self, pixels: Tensor) -> Tensor:
        """Embedding [B, 256, g, g] of normalised pixels [B, 3, S, S]."""
        return encode_window(self.image_encoder, pixels)


class PromptDecoder(nn.Module):
    """One positive point per prompt; what prompts share is computed once."""

    def __init__(self, sam: Sam) -> None:
        super().__init__()
        self.sam = sam

    def forward(self, embedding: Tensor, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Decode N points on one image.

        Parameters
        ----------
        embedding : [1, 256, g, g].
        points : float32 [N, 2], (x, y) in input pixels.

        Returns
        -------
        score : float32 [N], IoU output 0, which CellSeg1 trains as the cell probability.
        hyper : [N, 32], the mask head's weights for mask token 0.
        keys : [N, g·g, 256], image positions after the transformer, row by row.
        """
        decoded = decode_points(self.sam, embedding, points[None])
        return decoded.score, decoded.hyper, decoded.keys


class MaskHead(nn.Module):
    """Low-resolution mask logits for the prompts that survived the score."""

    def __init__(self, sam: Sam) -> None:
        super().__init__()
        self.sam = sam
        self.grid: tuple[int, int] = sam.prompt_encoder.image_embedding_size

    def forward(self, keys: Tensor, hyper: Tensor, index: Tensor) -> Tensor:
        """Upscale the survivors.

        Parameters
        ----------
        keys : [N, g·g, 256], from the prompt decoder.
        hyper : [N, 32], from the prompt decoder.
        index : int64 [M], which of the N prompts survived.

        Returns
        -------
        float32 [M, 4g, 4g]; above 0 is cell.
        """
        chosen = keys.index_select(0, index), hyper.index_select(0, index)
        return upscale_masks(self.sam, *chosen, self.grid).float()
