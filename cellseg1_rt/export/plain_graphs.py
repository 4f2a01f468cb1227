"""SAM's own modules behind the contract's inputs: what every exported graph is verified against.

They share the weights of the ``Sam`` they are made from. What is exported instead is
``graphs.py``. May import torch.
"""

from __future__ import annotations

import torch
from segment_anything.modeling import Sam
from torch import Tensor, nn

from cellseg1_rt.model.encoding import normalised_pixels

__all__ = ["PlainEncoder", "PlainMaskHead", "PlainPromptDecoder", "plain_modules"]


def plain_modules(sam: Sam) -> dict[str, nn.Module]:
    """The contract's graphs as segment-anything computes them, in eval mode."""
    return {
        "encoder": PlainEncoder(sam).eval(),
        "prompt_decoder": PlainPromptDecoder(sam).eval(),
        "mask_head": PlainMaskHead(sam).eval(),
    }


class PlainEncoder(nn.Module):
    """Bytes in, embedding out: normalisation and zero padding happen here, not on the host."""

    def __init__(self, sam: Sam) -> None:
        super().__init__()
        self.image_encoder = sam.image_encoder
        self.pixel_mean: Tensor
        self.pixel_std: Tensor
        self.register_buffer("pixel_mean", sam.pixel_mean.reshape(3).clone(), persistent=False)
        self.register_buffer("pixel_std", sam.pixel_std.reshape(3).clone(), persistent=False)

    def forward(self, image: Tensor, size: Tensor) -> Tensor:
        """Embed a batch.

        Parameters
        ----------
        image : uint8 [B, S, S, 3], RGB; what lies outside ``size`` is ignored.
        size : int32 [B, 2], valid (height, width) of each image.

        Returns
        -------
        float32 [B, 256, g, g].
        """
        return self.embed(normalised_pixels(image, size, self.pixel_mean, self.pixel_std))

    def embed(self, pixels: Tensor) -> Tensor:
        """Embedding of normalised pixels [B, 3, S, S]."""
        embedding: Tensor = self.image_encoder(pixels)
        return embedding


class PlainPromptDecoder(nn.Module):
    """One positive point per prompt through SAM's prompt encoder and two-way transformer."""

    def __init__(self, sam: Sam) -> None:
        super().__init__()
        self.prompt_encoder = sam.prompt_encoder
        self.mask_decoder = sam.mask_decoder

    def forward(self, embedding: Tensor, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Decode N points on one image.

        Parameters
        ----------
        embedding : float32 [1, 256, g, g].
        points : float32 [N, 2], (x, y) in input pixels.

        Returns
        -------
        score : float32 [N], IoU output 0, which CellSeg1 trains as the cell probability.
        hyper : float32 [N, 32], the mask head's weights for mask token 0.
        keys : float32 [N, g·g, 256], image positions after the transformer, row by row.
        """
        count = points.shape[0]
        tokens = torch.cat([self._own_tokens().expand(count, -1, -1), self._sparse(points)], dim=1)
        image = embedding + self.prompt_encoder.no_mask_embed.weight[0, :, None, None]
        position = self.prompt_encoder.get_dense_pe()
        queries, keys = self.mask_decoder.transformer(
            image.expand(count, -1, -1, -1), position.expand(count, -1, -1, -1), tokens
        )
        # Token 0 is the IoU token, tokens 1..4 the mask tokens; multimask_output=False reads the
        # first of each.
        score = self.mask_decoder.iou_prediction_head(queries[:, 0])[:, 0]
        hyper = self.mask_decoder.output_hypernetworks_mlps[0](queries[:, 1])
        return score, hyper, keys

    def _own_tokens(self) -> Tensor:
        return torch.cat([self.mask_decoder.iou_token.weight, self.mask_decoder.mask_tokens.weight])

    def _sparse(self, points: Tensor) -> Tensor:
        """The point's token and SAM's padding token: [N, 2, 256]."""
        encoder = self.prompt_encoder
        # SAM moves a point to its pixel's centre; a label of 1 adds point embedding 1, and the
        # padding point is nothing but its learned embedding.
        coordinates = encoder.pe_layer.forward_with_coords(
            (points + 0.5)[:, None], encoder.input_image_size
        )
        point = coordinates + encoder.point_embeddings[1].weight
        padding = encoder.not_a_point_embed.weight.expand(points.shape[0], 1, -1)
        return torch.cat([point, padding], dim=1)


class PlainMaskHead(nn.Module):
    """Low-resolution mask logits for the prompts that survived the score."""

    def __init__(self, sam: Sam) -> None:
        super().__init__()
        self.output_upscaling = sam.mask_decoder.output_upscaling
        self.grid = sam.prompt_encoder.image_embedding_size[0]

    def forward(self, keys: Tensor, hyper: Tensor, index: Tensor) -> Tensor:
        """Upscale the survivors.

        Parameters
        ----------
        keys : float32 [N, g·g, 256], from the prompt decoder.
        hyper : float32 [N, 32], from the prompt decoder.
        index : int64 [M], which of the N prompts survived.

        Returns
        -------
        float32 [M, 4g, 4g]; above 0 is cell.
        """
        image = keys.index_select(0, index).transpose(1, 2)
        image = image.reshape(-1, image.shape[1], self.grid, self.grid)
        upscaled: Tensor = self.output_upscaling(image)
        weights = hyper.index_select(0, index)[:, None]
        logits = weights @ upscaled.flatten(2)
        return logits.reshape(-1, upscaled.shape[2], upscaled.shape[3])
