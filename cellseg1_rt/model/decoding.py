"""SAM's prompt encoder and mask decoder for one point a prompt: the same function, less work.

What layer 1 computes from the image alone is computed once an image instead of once a prompt. Only
56 rows (7 tokens × 8 heads) ever meet the image positions, so the projections of the image side are
absorbed into those rows instead of being applied to every position of every prompt. Only mask
token 0 and score 0 are decoded (CellSeg1 reads no other). Masks are ``upscaling.py``.

A LoRA's dropout, other for every prompt, takes those projections in training. May import torch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam
from segment_anything.modeling.transformer import Attention
from torch import Tensor
from torch.nn import functional

from cellseg1_rt.backbone import PATCH_SIZE
from cellseg1_rt.model.encoding import sub_grid
from cellseg1_rt.model.lora_linear import LoraLinear, dropped, drops
from cellseg1_rt.model.precision import normed, outside_autocast, point_positions, score_of

__all__ = ["Decoded", "decode_points"]


@dataclass(frozen=True)
class Decoded:
    """What the transformer makes of P = B·N prompts, N on each of B images, image by image.

    Attributes
    ----------
    score : float [P], the raw cell probability (SAM's IoU output 0).
    hyper : float [P, 32], the mask head's weights for mask token 0.
    keys : float [P, T, 256], the T = h·w image positions after the transformer, row by row.
    """

    score: Tensor
    hyper: Tensor
    keys: Tensor


def decode_points(
    sam: Sam, embedding: Tensor, points_xy: Tensor, origins: Tensor | None = None
) -> Decoded:
    """One positive point per prompt.

    Parameters
    ----------
    sam : the model; its weights get gradients as usual.
    embedding : float [B, 256, h, w], embeddings of windows of SAM's frame.
    points_xy : float [B, N, 2], (x, y) in pixels of the window. SAM's own +0.5 shift is applied
        inside.
    origins : int64 [B, 2], (top, left) of each window in the frame, in tokens; None: all zero.
    """
    batch, count = points_xy.shape[:2]
    prompt, transformer = sam.prompt_encoder, sam.mask_decoder.transformer
    with outside_autocast(embedding.device):
        encoding = prompt.get_dense_pe().permute(0, 2, 3, 1).to(embedding.dtype)
    if origins is None:
        position = encoding.flatten(1, 2)
    else:
        points_xy = points_xy + PATCH_SIZE * origins[:, None].flip(2)
        position = sub_grid(encoding, origins, embedding.shape[2:]).flatten(1, 2)
    own = prompt.no_mask_embed.weight.to(embedding.dtype)
    image = embedding.flatten(2).transpose(1, 2) + own
    first, second = transformer.layers
    dtype = first.mlp.lin1.weight.dtype
    tokens = _tokens(sam, points_xy.flatten(0, 1), dtype).to(dtype)

    queries = normed(first.norm1, _self_attend(first.self_attn, tokens, tokens), dtype)
    seen = _shared_image_to_tokens(
        first.cross_attn_token_to_image, queries + tokens, image, position
    )
    queries = normed(first.norm2, queries + seen, dtype)
    queries = normed(first.norm3, queries + first.mlp(queries), dtype)
    found = _shared_tokens_to_image(
        first.cross_attn_image_to_token, image + position, queries + tokens, queries
    )
    spread = found.unflatten(0, (batch, count)) + image[:, None]
    keys = normed(first.norm4, spread.flatten(0, 1), dtype)

    with_position = queries + tokens
    attended = _self_attend(second.self_attn, with_position, queries)
    queries = normed(second.norm1, queries + attended, dtype)
    seen = _image_to_tokens(second.cross_attn_token_to_image, queries + tokens, keys, position)
    queries = normed(second.norm2, queries + seen, dtype)
    queries = normed(second.norm3, queries + second.mlp(queries), dtype)
    found = _tokens_to_image(
        second.cross_attn_image_to_token, keys, position, queries + tokens, queries
    )
    keys = normed(second.norm4, keys + found, dtype)

    # Of the seven tokens only the score's and mask 0's are read from here on.
    read = queries[:, :2]
    final = transformer.final_attn_token_to_image
    read = read + _image_to_tokens(final, read + tokens[:, :2], keys, position)
    read = transformer.norm_final_attn(read.float())
    decoder: MaskDecoder = sam.mask_decoder
    return Decoded(
        score=score_of(decoder.iou_prediction_head, read[:, 0], dtype)[:, 0],
        hyper=decoder.output_hypernetworks_mlps[0](read[:, 1].to(dtype)),
        keys=keys,
    )


def _tokens(sam: Sam, points_xy: Tensor, dtype: torch.dtype) -> Tensor:
    """Tokens [P, 7, 256]: score, four masks, the point, SAM's padding point."""
    prompt: PromptEncoder = sam.prompt_encoder
    decoder: MaskDecoder = sam.mask_decoder
    # SAM moves a point to its pixel's centre; a label of 1 adds point embedding 1, and the padding
    # point is nothing but its learned embedding.
    with outside_autocast(points_xy.device):
        place = point_positions(prompt, points_xy + 0.5, dtype)
    point = place + prompt.point_embeddings[1].weight
    own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    count = points_xy.shape[0]  # len() would fix it in an exported graph
    padding = prompt.not_a_point_embed.weight.expand(count, -1, -1)
    return torch.cat([own.expand(count, -1, -1), point, padding], dim=1)


# Below, P = B·N prompts of B images, R rows of tokens a prompt, H = 8 heads of D = 16 channels.
# Weights between tokens and image lie as [P, H·R, T], positions innermost: rows that long keep
# every pass over them wide.


def _heads(attention: Attention, values: Tensor) -> Tensor:
    """[..., H·D] to [..., H, D]."""
    apart: Tensor = values.unflatten(-1, (attention.num_heads, -1))
    return apart


def _scaled(attention: Attention, values: Tensor) -> Tensor:
    """Heads [..., H, D] times 1/√D, on the tokens' side, where it costs least."""
    return _heads(attention, values) * float(
        (attention.internal_dim // attention.num_heads) ** -0.5
    )


def _self_attend(attention: Attention, with_position: Tensor, values: Tensor) -> Tensor:
    """SAM's attention among the tokens [P, R, C]."""
    query = _scaled(attention, attention.q_proj(with_position)).transpose(1, 2)
    key = _heads(attention, attention.k_proj(with_position)).transpose(1, 2)
    value = _heads(attention, attention.v_proj(values)).transpose(1, 2)
    weights = (query @ key.transpose(2, 3)).float().softmax(dim=3).to(value.dtype)
    projected: Tensor = attention.out_proj((weights @ value).transpose(1, 2).flatten(2))
    return projected


def _by_head(tokens: Tensor, batch: int) -> Tensor:
    """Rows of all prompts of an image side by side: [P, R, H, D] to [B, H, N·R, D]."""
    together: Tensor = tokens.unflatten(0, (batch, -1)).flatten(1, 2).transpose(1, 2)
    return together


def _by_prompt(weights: Tensor, rows: int) -> Tensor:
    """[B, H, N·R, T] to [P, H·R, T]."""
    apart: Tensor = weights.unflatten(2, (-1, rows)).transpose(1, 2).flatten(0, 1)
    return apart.flatten(1, 2)


def _shared_image_to_tokens(
    attention: Attention, queries: Tensor, image: Tensor, position: Tensor
) -> Tensor:
    """Tokens [P, R, C] attend to images [B, T, C] that their prompts share."""
    query = _by_head(_scaled(attention, attention.q_proj(queries)), len(image))
    key = _heads(attention, attention.k_proj(image + position)).permute(0, 2, 3, 1)
    if drops(attention.v_proj):
        weights = _by_prompt((query @ key).float().softmax(dim=3), queries.shape[1])
        own = _for_each_prompt(attention.v_proj, image, len(queries))
        return _seen(attention, weights, own)
    value = _heads(attention, attention.v_proj(image)).transpose(1, 2)
    weights = (query @ key).float().softmax(dim=3).to(value.dtype)  # [B, H, N·R, T]
    out = (weights @ value).transpose(1, 2).reshape(*queries.shape[:2], -1)
    projected: Tensor = attention.out_proj(out)
    return projected


def _shared_tokens_to_image(
    attention: Attention, image: Tensor, tokens: Tensor, values: Tensor
) -> Tensor:
    """What images [B, T, C] (with positions) take from each prompt's tokens: [P, T, C]."""
    key = _scaled(attention, attention.k_proj(tokens))
    if drops(attention.q_proj):
        own = _for_each_prompt(attention.q_proj, image, len(tokens))
        return _spread(attention, _asked(attention, key, own), values)
    key = _by_head(key, len(image))
    query = _heads(attention, attention.q_proj(image)).permute(0, 2, 3, 1)  # [B, H, D, T]
    logits = _by_prompt(key @ query, tokens.shape[1])
    return _spread(attention, logits, values)


def _image_to_tokens(
    attention: Attention, queries: Tensor, keys: Tensor, position: Tensor
) -> Tensor:
    """Tokens [P, R, C] attend to each prompt's own positions [P, T, C].

    (q·Wk)·keysᵀ and (weights·keys)·Wv instead of two projections of every position; what the
    positional encoding [B, T, C] adds to the logits is q times a table that prompts share. The
    key's bias adds the same to a whole row, which the softmax drops; the value's bias comes after.
    """
    query = _scaled(attention, attention.q_proj(queries))
    logits = _absorbed(query, attention.k_proj.weight) @ keys.transpose(1, 2)
    table = _heads(attention, functional.linear(position, attention.k_proj.weight))
    at_place = _by_head(query, len(position)) @ table.permute(0, 2, 3, 1)
    logits = (logits + _by_prompt(at_place, queries.shape[1])).float()
    weights = logits.softmax(dim=2).to(keys.dtype)
    if drops(attention.v_proj):
        return _seen(attention, weights, attention.v_proj(keys))
    seen = (weights @ keys).unflatten(1, (attention.num_heads, -1))  # [P, H, R, C]
    of_values = _heads(attention, attention.v_proj.weight.T).transpose(0, 1)  # [H, C, D]
    out = torch.einsum("phrc,hcd->prhd", seen, of_values.to(seen.dtype)).flatten(2)
    projected: Tensor = attention.out_proj(out + attention.v_proj.bias.to(out.dtype))
    return projected


def _tokens_to_image(
    attention: Attention, keys: Tensor, position: Tensor, tokens: Tensor, values: Tensor
) -> Tensor:
    """What each prompt's own positions [P, T, C] take from its tokens: [P, T, C].

    The logits are (Wqᵀ·k)·keys plus k·(position·Wqᵀ + bq), whose right factor prompts share.
    """
    key = _scaled(attention, attention.k_proj(tokens))
    if drops(attention.q_proj):
        placed = keys.unflatten(0, (len(position), -1)) + position[:, None]
        own = attention.q_proj(placed.flatten(0, 1))
        return _spread(attention, _asked(attention, key, own), values)
    logits = _absorbed(key, attention.q_proj.weight) @ keys.transpose(1, 2)
    table = _heads(attention, attention.q_proj(position)).permute(0, 2, 3, 1)
    at_place = _by_head(key, len(position)) @ table
    logits = logits + _by_prompt(at_place, tokens.shape[1])
    return _spread(attention, logits, values)


def _for_each_prompt(layer: LoraLinear, image: Tensor, prompts: int) -> Tensor:
    """Projections of images [B, T, C], made once and then dropped for each prompt: [P, T, H·D]."""
    projected = layer.product(image, bias=True)[:, None]
    return dropped(layer, projected.expand(-1, prompts // len(image), -1, -1)).flatten(0, 1)


def _seen(attention: Attention, weights: Tensor, own: Tensor) -> Tensor:
    """What weights [P, H·R, T] take from values [P, T, H·D], projected: [P, R, C]."""
    by_head = weights.unflatten(1, (attention.num_heads, -1)).to(own.dtype)
    out = by_head @ _heads(attention, own).transpose(1, 2)
    projected: Tensor = attention.out_proj(out.transpose(1, 2).flatten(2))
    return projected


def _asked(attention: Attention, key: Tensor, own: Tensor) -> Tensor:
    """Logits [P, H·R, T] of keys [P, R, H, D], scaled, and queries [P, T, H·D]."""
    logits: Tensor = key.transpose(1, 2) @ _heads(attention, own).permute(0, 2, 3, 1)
    return logits.flatten(1, 2)


def _absorbed(rows: Tensor, projection: Tensor) -> Tensor:
    """Rows [P, R, H, D] through a projection's weight [H·D, C], head by head: [P, H·R, C]."""
    weight = projection.unflatten(0, (rows.shape[2], -1)).to(rows.dtype)
    return torch.einsum("prhd,hdc->phrc", rows, weight).flatten(1, 2)


def _spread(attention: Attention, logits: Tensor, values: Tensor) -> Tensor:
    """Positions take the tokens' values [P, R, C] by logits [P, H·R, T]: [P, T, C].

    A token of a head adds V·Wo + b/8 to a position. A head's weights sum to 1, so the eight shares
    of the output bias add up to it.
    """
    heads = attention.num_heads
    value = _heads(attention, attention.v_proj(values))
    output = attention.out_proj.weight.T.unflatten(0, (heads, -1))  # [H, D, C]
    added = torch.einsum("prhd,hdc->phrc", value, output.to(value.dtype))
    added = (added + (attention.out_proj.bias / heads).to(added.dtype)).flatten(1, 2)
    apart = logits.float().unflatten(1, (heads, -1))
    # Written out: over a dimension that is not the last, ONNX Runtime's softmax transposes twice.
    raised = (apart - apart.amax(dim=2, keepdim=True)).exp()
    weights = (raised / raised.sum(dim=2, keepdim=True)).flatten(1, 2).to(added.dtype)
    spread: Tensor = weights.transpose(1, 2) @ added
    return spread
