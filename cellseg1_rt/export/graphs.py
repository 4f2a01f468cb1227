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
from cellseg1_rt.model.encoding import encode_window, normalised_pixels
from cellseg1_rt.model.pairs import EncoderPairs
from cellseg1_rt.model.upscaling import upscale_masks

__all__ = ["Encoder", "MaskHead", "PromptDecoder", "SwappableEncoder", "graph_modules"]


def graph_modules(sam: Sam, pairs: EncoderPairs | None = None) -> dict[str, torch.nn.Module]:
    """The contract's graphs as modules that share ``sam``'s weights, in eval mode.

    ``pairs`` are those of a LoRA that is not in the encoder's weights.
    """
    return {
        "encoder": Encoder(sam, pairs).eval(),
        "prompt_decoder": PromptDecoder(sam).eval(),
        "mask_head": MaskHead(sam).eval(),
    }


class Encoder(PlainEncoder):
    """Bytes in, embedding out, through attentions that runtimes fuse."""

    def __init__(self, sam: Sam, pairs: EncoderPairs | None = None) -> None:
        super().__init__(sam)
        self.pairs = pairs

    def embed(self, pixels: Tensor) -> Tensor:
        """Embedding [B, 256, g, g] of normalised pixels [B, 3, S, S]."""
        return encode_window(self.image_encoder, pixels, pairs=self.pairs)


class SwappableEncoder(nn.Module):
    """An encoder that takes the pairs of a LoRA besides images; it keeps none of its own."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, image: Tensor, size: Tensor, lora_a: Tensor, lora_b: Tensor) -> Tensor:
        """Embed a batch; see ``PlainEncoder.forward`` and ``EncoderPairs``."""
        of = self.encoder
        pixels = normalised_pixels(image, size, of.pixel_mean, of.pixel_std)
        return encode_window(of.image_encoder, pixels, pairs=EncoderPairs(lora_a, lora_b))


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
