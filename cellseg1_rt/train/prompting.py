"""SAM's prompt encoder and mask decoder for training: the same function, less work.

One encoder pass serves all points of an image. What layer 1 computes from the image alone is
computed once instead of once a point, only mask token 0 and score 0 are decoded (CellSeg1 reads no
other), and masks are upscaled only for the points that have one to learn. May import torch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from segment_anything.modeling import MaskDecoder, Sam
from segment_anything.modeling.transformer import Attention, TwoWayAttentionBlock
from torch import Tensor
from torch.nn import functional

__all__ = ["Decoded", "decode_points", "upscale_masks"]


@dataclass(frozen=True)
class Decoded:
    """What the transformer makes of N points on one image.

    Attributes
    ----------
    score : float [N], the raw cell probability (SAM's IoU output 0).
    hyper : float [N, 32], the mask head's weights for mask token 0.
    keys : float [N, g·g, 256], the image positions after the transformer.
    """

    score: Tensor
    hyper: Tensor
    keys: Tensor


def decode_points(sam: Sam, embedding: Tensor, points_xy: Tensor) -> Decoded:
    """One positive point per prompt, on one image.

    Parameters
    ----------
    sam : the model; its weights get gradients as usual.
    embedding : float [1, 256, g, g], the image embedding.
    points_xy : float [N, 2], (x, y) in input pixels. SAM's own +0.5 shift is applied inside.
    """
    labels = torch.ones(len(points_xy), 1)
    sparse, dense = sam.prompt_encoder((points_xy[:, None], labels), None, None)
    decoder: MaskDecoder = sam.mask_decoder
    own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    tokens = torch.cat([own.expand(len(points_xy), -1, -1), sparse], dim=1)

    image = (embedding + dense[:1]).flatten(2).transpose(1, 2)
    position = sam.prompt_encoder.get_dense_pe().flatten(2).transpose(1, 2).to(image.dtype)
    queries, keys = tokens, image
    for layer in decoder.transformer.layers:
        queries, keys = _two_way(layer, queries, keys, tokens, position)
    attended = _attend(
        decoder.transformer.final_attn_token_to_image, queries + tokens, keys + position, keys
    )
    queries = decoder.transformer.norm_final_attn(queries + attended)
    return Decoded(
        score=decoder.iou_prediction_head(queries[:, 0])[:, 0],
        hyper=decoder.output_hypernetworks_mlps[0](queries[:, 1]),
        keys=keys,
    )


def upscale_masks(sam: Sam, keys: Tensor, hyper: Tensor) -> Tensor:
    """Mask logits [M, 4g, 4g] of M prompts, from their ``keys`` and ``hyper``."""
    grid = sam.prompt_encoder.image_embedding_size[0]
    image = keys.transpose(1, 2).unflatten(2, (grid, grid))
    upscaled = sam.mask_decoder.output_upscaling(image)
    return torch.einsum("mc,mchw->mhw", hyper.to(upscaled.dtype), upscaled)


def _two_way(
    layer: TwoWayAttentionBlock, queries: Tensor, keys: Tensor, tokens: Tensor, position: Tensor
) -> tuple[Tensor, Tensor]:
    if layer.skip_first_layer_pe:
        queries = _attend(layer.self_attn, queries, queries, queries)
    else:
        with_position = queries + tokens
        queries = queries + _attend(layer.self_attn, with_position, with_position, queries)
    queries = layer.norm1(queries)
    image = keys + position
    queries = layer.norm2(
        queries + _attend(layer.cross_attn_token_to_image, queries + tokens, image, keys)
    )
    queries = layer.norm3(queries + layer.mlp(queries))
    found = _attend(layer.cross_attn_image_to_token, image, queries + tokens, queries)
    return queries, layer.norm4(keys + found)


def _attend(attention: Attention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """SAM's ``Attention``; an argument with batch 1 is projected once and shared by all prompts."""
    q, k, v = (
        projection(x).unflatten(2, (attention.num_heads, -1)).transpose(1, 2)
        for projection, x in (
            (attention.q_proj, query),
            (attention.k_proj, key),
            (attention.v_proj, value),
        )
    )
    batch = max(len(q), len(k))
    shared = [x.expand(batch, -1, -1, -1) for x in (q, k, v)]
    out = functional.scaled_dot_product_attention(*shared)
    projected: Tensor = attention.out_proj(out.transpose(1, 2).flatten(2))
    return projected
