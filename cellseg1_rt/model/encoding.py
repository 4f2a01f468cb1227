"""SAM's image encoder over any window of its frame, with rel-pos inside the dot product.

The same function as ``ImageEncoderViT.forward`` where the window is the whole frame, in plain
attentions that runtimes fuse, and without work on the padding of its own attention windows. On a
smaller window, what that encoder computes from the tokens it sees: positions and distances keep
their meaning, so training on small windows is training the full-size model. May import torch.
"""

from __future__ import annotations

from typing import Literal

import torch
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.image_encoder import Attention, Block
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from cellseg1_rt.model.attention_blocks import attend_in_blocks
from cellseg1_rt.model.lora_linear import dropped, product
from cellseg1_rt.model.pairs import EncoderPairs
from cellseg1_rt.model.precision import normed

__all__ = ["Way", "encode_window", "normalised_pixels", "sub_grid"]

Way = Literal["products", "fused", "blocks"]


def encode_window(
    encoder: ImageEncoderViT,
    pixels: Tensor,
    origins: Tensor | None = None,
    *,
    pairs: EncoderPairs | None = None,
    way: Way = "products",
    checkpointing: bool = False,
) -> Tensor:
    """Embeddings of windows of the encoder's input.

    Parameters
    ----------
    encoder : its position tables are those of the whole frame of F×F tokens.
    pixels : float32 [B, 3, 16h, 16w], normalised; h, w ≤ F.
    origins : int64 [B, 2], (top, left) of each window in the frame, in tokens; None: whole frames.
    pairs : of a LoRA that is not in the encoder; None: there is none, or it is in there.
    way : of attention. ``products``: plain ones, as exported. ``fused``: PyTorch's kernel, which
        keeps no T×T weights for gradients. ``blocks``: a head at a time, in float32 only, whose
        rel-pos tables get no gradients: the quickest to train a LoRA with on a CPU.
    checkpointing : keep only what goes into each block and compute its inside again for gradients.

    Returns
    -------
    [B, 256, h, w] in the precision of the encoder's products.
    """
    dtype = encoder.patch_embed.proj.weight.dtype
    tokens = encoder.patch_embed(pixels.to(dtype))
    positions = encoder.pos_embed
    tokens = tokens + (
        positions if origins is None else sub_grid(positions, origins, tokens.shape[1:3])
    )
    low_rank = [None] * len(encoder.blocks) if pairs is None else pairs.factors(dtype)
    for block, factors in zip(encoder.blocks, low_rank, strict=True):
        if checkpointing:
            tokens = checkpoint(_block, block, tokens, factors, way, use_reentrant=False)
        else:
            tokens = _block(block, tokens, factors, way)
    embedding: Tensor = tokens.permute(0, 3, 1, 2).to(dtype)
    for layer in encoder.neck:
        wide = isinstance(layer, LayerNorm2d)
        embedding = normed(layer, embedding, dtype) if wide else layer(embedding)
    return embedding


def normalised_pixels(images: Tensor, sizes: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """What an encoder takes, float32 [B, 3, S, S], of padded images.

    Parameters
    ----------
    images : uint8 [B, S, S, 3], RGB; what lies outside ``sizes`` is ignored.
    sizes : int32 [B, 2], valid (height, width) of each image.
    mean, std : float32 [3], of RGB in 0..255.
    """
    side = torch.arange(images.shape[1], dtype=torch.int32, device=images.device)
    rows = side[None, :, None] < sizes[:, 0, None, None]
    columns = side[None, None, :] < sizes[:, 1, None, None]
    pixels = (images.float() - mean) / std
    # The padding is zero after normalisation, which is not what black would become.
    pixels = torch.where((rows & columns)[..., None], pixels, 0.0)
    return pixels.permute(0, 3, 1, 2)


def sub_grid(grid: Tensor, origins: Tensor, size: tuple[int, ...]) -> Tensor:
    """Windows [B, h, w, C] of a grid [1, F, F, C], at ``origins`` [B, 2], (top, left)."""
    height, width = size
    return torch.cat(
        [grid[:, top : top + height, left : left + width] for top, left in origins.tolist()]
    )


def _block(block: Block, tokens: Tensor, factors: tuple[Tensor, Tensor] | None, way: Way) -> Tensor:
    height, width, channels = tokens.shape[1:]
    attention, dtype = block.attn, block.mlp.lin1.weight.dtype
    # The bias is added after windows are cut: SAM pads the tokens with zeros, so a padded token's
    # query, key and value are the bias, and no product is needed to know them. Dropout, which a
    # LoRA has on the sum, comes after both and so meets padded tokens too.
    into = normed(block.norm1, tokens, dtype)
    qkv = product(attention.qkv, into)
    if factors is not None:  # W stays a constant, which runtimes arrange for their kernels
        down, up = factors
        qkv = qkv + functional.linear(functional.linear(into, down), up)
    side = block.window_size
    if side == 0:
        attended = _attend(attention, dropped(attention.qkv, qkv + attention.qkv.bias), way)
    else:
        padded = functional.pad(qkv, (0, 0, 0, -width % side, 0, -height % side))
        rows, columns = padded.shape[1] // side, padded.shape[2] // side
        windows = padded.view(-1, rows, side, columns, side, 3 * channels).transpose(2, 3)
        windows = windows.reshape(-1, side, side, 3 * channels) + attention.qkv.bias
        attended = _attend(attention, dropped(attention.qkv, windows), way)
        attended = attended.view(-1, rows, columns, side, side, channels)
        attended = attended.transpose(2, 3).reshape(-1, rows * side, columns * side, channels)
        attended = attended[:, :height, :width]
    tokens = tokens + attention.proj(attended)
    result: Tensor = tokens + block.mlp(normed(block.norm2, tokens, dtype))
    return result


def _attend(attention: Attention, qkv: Tensor, way: Way) -> Tensor:
    """Attention over all tokens of [B, h, w, 3C], before its projection: [B, h, w, C].

    The decomposed rel-pos rides in the product: q·s·k + q·Rh[y, y'] + q·Rw[x, x'] is one dot
    product of [q·s, q·Rh[y], q·Rw[x]] with [k, onehot(y'), onehot(x')]. SAM's rel-pos uses the
    unscaled q.
    """
    height, width = qkv.shape[1:3]
    heads, count = attention.num_heads, height * width
    q, k, v = qkv.view(-1, count, 3, heads, qkv.shape[3] // (3 * heads)).unbind(2)
    q, k, v = (part.transpose(1, 2).flatten(0, 1) for part in (q, k, v))  # [B·heads, T, c]
    if way == "blocks":
        rows = _distances(attention.rel_pos_h, height)
        columns = _distances(attention.rel_pos_w, width)
        out = attend_in_blocks(q, k, v, rows, columns, attention.scale)
    else:
        query, key = _with_places(attention, q, k, (height, width))
        out = _products(query, key, v) if way == "products" else _fused(query, key, v)
    merged: Tensor = out.unflatten(0, (-1, heads)).transpose(1, 2)  # [B, T, heads, c]
    return merged.reshape(-1, height, width, qkv.shape[3] // 3)


def _with_places(
    attention: Attention, q: Tensor, k: Tensor, size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Queries and keys [N, T, c] widened by their places: [N, T, c + h + w]."""
    height, width = size
    on_grid = q.unflatten(1, (height, width))
    by_row = torch.einsum("bhwc,hkc->bhwk", on_grid, _distances(attention.rel_pos_h, height))
    by_column = torch.einsum("bhwc,wkc->bhwk", on_grid, _distances(attention.rel_pos_w, width))
    query = torch.cat([q * attention.scale, by_row.flatten(1, 2), by_column.flatten(1, 2)], dim=2)
    place = torch.arange(height * width, device=q.device)
    onehots = torch.cat(
        [functional.one_hot(place // width, height), functional.one_hot(place % width, width)],
        dim=1,
    ).to(k.dtype)
    key = torch.cat([k, onehots.expand(k.shape[0], -1, -1)], dim=2)
    return query, key


def _products(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    weights = (query @ key.transpose(1, 2)).float().softmax(dim=2)
    found: Tensor = weights.to(value.dtype) @ value
    return found


def _fused(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    # It wants one width for all three.
    wide = functional.pad(value, (0, query.shape[2] - value.shape[2]))
    query, key, wide = (part.to(value.dtype)[None] for part in (query, key, wide))
    out: Tensor = functional.scaled_dot_product_attention(query, key, wide, scale=1.0)[0]
    return out[..., : value.shape[2]]


def _distances(table: Tensor, size: int) -> Tensor:
    """Rel-pos vectors [size, size, c] between places of one axis, from the frame's whole table.

    The middle row of a table [2F - 1, c] is distance 0.
    """
    place = torch.arange(size, device=table.device)
    return table[place[:, None] - place[None, :] + table.shape[0] // 2]
