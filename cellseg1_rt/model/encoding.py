"""SAM's image encoder over any window of its frame, with rel-pos inside the dot product.

The same function as ``ImageEncoderViT.forward`` where the window is the whole frame, in plain
attentions that runtimes fuse, and without work on the padding of its own attention windows. On a
smaller window, what that encoder computes from the tokens it sees: positions and distances keep
their meaning, so training on small windows is training the full-size model. May import torch.
"""

from __future__ import annotations

import torch
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import Attention, Block
from torch import Tensor
from torch.nn import functional

__all__ = ["encode_window", "sub_grid"]


def encode_window(
    encoder: ImageEncoderViT, pixels: Tensor, origins: Tensor | None = None
) -> Tensor:
    """Embeddings of windows of the encoder's input.

    Parameters
    ----------
    encoder : its position tables are those of the whole frame of F×F tokens.
    pixels : float [B, 3, 16h, 16w], normalised; h, w ≤ F.
    origins : int64 [B, 2], (top, left) of each window in the frame, in tokens; None: whole frames.

    Returns
    -------
    float [B, 256, h, w].
    """
    tokens = encoder.patch_embed(pixels)
    positions = encoder.pos_embed
    tokens = tokens + (
        positions if origins is None else sub_grid(positions, origins, tokens.shape[1:3])
    )
    for block in encoder.blocks:
        tokens = _block(block, tokens)
    embedding: Tensor = encoder.neck(tokens.permute(0, 3, 1, 2))
    return embedding


def sub_grid(grid: Tensor, origins: Tensor, size: tuple[int, ...]) -> Tensor:
    """Windows [B, h, w, C] of a grid [1, F, F, C], at ``origins`` [B, 2], (top, left)."""
    height, width = size
    return torch.cat(
        [grid[:, top : top + height, left : left + width] for top, left in origins.tolist()]
    )


def _block(block: Block, tokens: Tensor) -> Tensor:
    height, width, channels = tokens.shape[1:]
    attention, normed = block.attn, block.norm1(tokens)
    # The bias is added after windows are cut: SAM pads the tokens with zeros, so a padded token's
    # query, key and value are the bias, and no product is needed to know them.
    qkv = functional.linear(normed, attention.qkv.weight)
    side = block.window_size
    if side == 0:
        attended = _attend(attention, qkv + attention.qkv.bias)
    else:
        padded = functional.pad(qkv, (0, 0, 0, -width % side, 0, -height % side))
        rows, columns = padded.shape[1] // side, padded.shape[2] // side
        windows = padded.view(-1, rows, side, columns, side, 3 * channels).transpose(2, 3)
        windows = windows.reshape(-1, side, side, 3 * channels) + attention.qkv.bias
        attended = _attend(attention, windows).view(-1, rows, columns, side, side, channels)
        attended = attended.transpose(2, 3).reshape(-1, rows * side, columns * side, channels)
        attended = attended[:, :height, :width]
    tokens = tokens + attention.proj(attended)
    result: Tensor = tokens + block.mlp(block.norm2(tokens))
    return result


def _attend(attention: Attention, qkv: Tensor) -> Tensor:
    """Attention over all tokens of [B, h, w, 3C], before its projection: [B, h, w, C].

    The decomposed rel-pos rides in the product: q·s·k + q·Rh[y, y'] + q·Rw[x, x'] is one dot
    product of [q·s, q·Rh[y], q·Rw[x]] with [k, onehot(y'), onehot(x')]. SAM's rel-pos uses the
    unscaled q.
    """
    height, width = qkv.shape[1:3]
    heads, count = attention.num_heads, height * width
    q, k, v = qkv.view(-1, count, 3, heads, qkv.shape[3] // (3 * heads)).unbind(2)
    q, k, v = (part.transpose(1, 2).flatten(0, 1) for part in (q, k, v))  # [B·heads, T, c]
    on_grid = q.unflatten(1, (height, width))
    by_row = torch.einsum("bhwc,hkc->bhwk", on_grid, _distances(attention.rel_pos_h, height))
    by_column = torch.einsum("bhwc,wkc->bhwk", on_grid, _distances(attention.rel_pos_w, width))
    query = torch.cat([q * attention.scale, by_row.flatten(1, 2), by_column.flatten(1, 2)], dim=2)
    place = torch.arange(count, device=q.device)
    onehots = torch.cat(
        [functional.one_hot(place // width, height), functional.one_hot(place % width, width)],
        dim=1,
    ).to(k.dtype)
    key = torch.cat([k, onehots.expand(k.shape[0], -1, -1)], dim=2)
    # Plain products: PyTorch's fused CPU kernel is slower than they are in bfloat16 at this width.
    out = (query @ key.transpose(1, 2)).softmax(dim=2).to(v.dtype) @ v
    merged: Tensor = out.unflatten(0, (-1, heads)).transpose(1, 2)  # [B, T, heads, c]
    return merged.reshape(-1, height, width, qkv.shape[3] // 3)


def _distances(table: Tensor, size: int) -> Tensor:
    """Rel-pos vectors [size, size, c] between places of one axis, from the frame's whole table.

    The middle row of a table [2F - 1, c] is distance 0.
    """
    place = torch.arange(size, device=table.device)
    return table[place[:, None] - place[None, :] + table.shape[0] // 2]
