"""SAM's encoder attention for training on a CPU: the T×T weights of one head at a time, in cache.

The same function as SAM's, with a backward pass of its own. Left to autograd each of softmax,
rel-pos and their gradients passes over the weights of all heads in main memory, and PyTorch's fused
kernel pays for rel-pos in products three times as wide. May import torch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["attend_in_blocks"]

BLOCK_ELEMENTS = 2**20
"""Weights that are worked on together, 4 MB in float32."""


def attend_in_blocks(
    q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor, scale: float
) -> Tensor:
    """Attention with decomposed rel-pos: softmax(s·q·k + q·rows[y, y'] + q·columns[x, x'])·v.

    Parameters
    ----------
    q, k, v : float32 [N, T, c], N heads of all images, over a grid of T = h·w places.
    rows, columns : float32 [h, h, c] and [w, w, c], vectors between places of an axis; they get no
        gradients.
    scale : s.

    Returns
    -------
    float32 [N, T, c].
    """
    found: Tensor = _BlockAttention.apply(q, k, v, rows, columns, scale)
    return found


class _BlockAttention(torch.autograd.Function):
    """Keeps the weights (N·T² elements) for the backward pass, as autograd would."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor, scale: float
    ) -> Tensor:
        height, width = len(rows), len(columns)
        on_grid = q.unflatten(1, (height, width))
        by_row = torch.einsum("bhwc,hkc->bhwk", on_grid, rows).flatten(1, 2)
        by_column = torch.einsum("bhwc,wkc->bhwk", on_grid, columns).flatten(1, 2)
        scaled, turned = q * scale, k.transpose(1, 2)
        weights, out = q.new_empty(len(q), q.shape[1], q.shape[1]), torch.empty_like(v)
        for part in _blocks(q):
            logits = torch.bmm(scaled[part], turned[part])
            apart = logits.unflatten(2, (height, width))
            apart.add_(by_row[part][..., None]).add_(by_column[part][:, :, None])
            torch.softmax(logits, 2, out=weights[part])
            torch.bmm(weights[part], v[part], out=out[part])
        ctx.save_for_backward(q, k, v, rows, columns, weights, out)
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, rows, columns, weights, out = ctx.saved_tensors
        height, width = len(rows), len(columns)
        of_out = gradients[0].contiguous()
        of_q, of_k, of_v = (torch.empty_like(values) for values in (q, k, v))
        of_row, of_column = (q.new_empty(*q.shape[:2], side) for side in (height, width))
        # Of softmax: dL = P·(dP - Σ P·dP), where the sum is that of dO·O.
        mean, turned = (of_out * out).sum(dim=2, keepdim=True), v.transpose(1, 2)
        for part in _blocks(q):
            of_logits = torch.bmm(of_out[part], turned[part]).sub_(mean[part]).mul_(weights[part])
            torch.bmm(weights[part].transpose(1, 2), of_out[part], out=of_v[part])
            torch.bmm(of_logits, k[part], out=of_q[part])
            torch.bmm(of_logits.transpose(1, 2), q[part], out=of_k[part])
            apart = of_logits.unflatten(2, (height, width))
            torch.sum(apart, 3, out=of_row[part])
            torch.sum(apart, 2, out=of_column[part])
        of_q, of_k = of_q.mul_(ctx.scale), of_k.mul_(ctx.scale)
        on_grid = of_q.unflatten(1, (height, width))
        on_grid += torch.einsum("bhwk,hkc->bhwc", of_row.unflatten(1, (height, width)), rows)
        on_grid += torch.einsum("bhwk,wkc->bhwc", of_column.unflatten(1, (height, width)), columns)
        return of_q, of_k, of_v, None, None, None


def _blocks(q: Tensor) -> list[slice]:
    size = max(1, BLOCK_ELEMENTS // q.shape[1] ** 2)
    return [slice(first, first + size) for first in range(0, len(q), size)]
