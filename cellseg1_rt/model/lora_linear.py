"""A frozen linear layer with CellSeg1's low-rank updates, and dropout where CellSeg1 has it.

Which layers of a SAM get one, and their names in files, is ``lora.py``. May import torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["LoraLinear", "LowRank", "SumDropout", "dropped", "drops", "product"]


class LowRank(nn.Module):
    """A [rank, in_features], Kaiming-uniform (a = √5), and B [out_features, rank], zero.

    What is added is B·A; there is no alpha scaling (CellSeg1, "LoRA").
    """

    def __init__(self, in_features: int, out_features: int, rank: int) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.empty(rank, in_features))
        self.b = nn.Parameter(torch.zeros(out_features, rank))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))


class LoraLinear(nn.Module):
    """A frozen linear layer, plus low-rank updates on some of its output rows.

    Dropout sits on the sum, as in the published code, and so on every row: for a fused ``qkv`` on k
    too, which has no update.

    Parameters
    ----------
    frozen : the layer, [out, in].
    updates : by first output row.
    dropout : probability, in training only.
    """

    def __init__(self, frozen: nn.Linear, updates: Mapping[int, LowRank], dropout: float) -> None:
        super().__init__()
        self.frozen = frozen
        self.updates = nn.ModuleDict({str(row): update for row, update in updates.items()})
        self.dropout = SumDropout(dropout)

    @property
    def weight(self) -> Tensor:
        """W + B·A [out, in]: what the layer is worth to those that absorb it, dropout apart."""
        a, b = self._stacked()
        return torch.addmm(self.frozen.weight, b, a)

    @property
    def bias(self) -> Tensor:
        """[out], frozen."""
        return self.frozen.bias

    def product(self, x: Tensor, *, bias: bool) -> Tensor:
        """x·(W + B·A)ᵀ before dropout, with or without the bias: [..., in] to [..., out]."""
        found: Tensor = _Product.apply(
            x, self.frozen.weight, self.frozen.bias if bias else None, *self._stacked()
        )
        return found

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., in] to [..., out]."""
        found: Tensor = self.dropout(self.product(x, bias=True))
        return found

    def _stacked(self) -> tuple[Tensor, Tensor]:
        """A of all updates [k, in], and B [out, k], zero where an update has no rows."""
        rows = self.frozen.weight.shape[0]
        updates = {int(row): cast(LowRank, update) for row, update in self.updates.items()}
        bs = [
            functional.pad(update.b, (0, 0, row, rows - row - update.b.shape[0]))
            for row, update in updates.items()
        ]
        return torch.cat([update.a for update in updates.values()]), torch.cat(bs, dim=1)


class SumDropout(nn.Module):
    """``nn.Dropout``, whose masks take half the time to draw on a CPU and a quarter of the memory.

    Parameters
    ----------
    p : probability that an element becomes 0 in training; the others are divided by 1 - p.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, values: Tensor) -> Tensor:
        """Values of the same shape."""
        if not self.training or self.p == 0:
            return values
        if values.device.type != "cpu":
            return functional.dropout(values, self.p)
        # 32 bits an element, two from each draw; the generator is torch's own.
        bits = torch.empty(-(-values.numel() // 2), dtype=torch.int64).random_(-(2**63), None)
        whole = bits.view(torch.int32)[: values.numel()].view(values.shape)
        kept = whole >= round(self.p * 2**32) - 2**31
        found: Tensor = _Masked.apply(values, kept, 1 / (1 - self.p))
        return found


class _Masked(torch.autograd.Function):
    """Values where ``kept``, times a factor, and 0 elsewhere."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, kept: Tensor, factor: float) -> Tensor:
        ctx.save_for_backward(kept)
        ctx.factor = factor
        return torch.where(kept, values, 0).mul_(factor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (kept,) = ctx.saved_tensors
        return torch.where(kept, gradients[0], 0).mul_(ctx.factor), None, None


class _Product(torch.autograd.Function):
    """x·(W + B·A)ᵀ + bias with gradients to x, A and B, none to W and bias.

    W + B·A costs next to nothing to form, and then x passes one product instead of three. Left to
    autograd the gradient of A and B would go through that of the whole weight, a product as large
    as the forward one; through the rank it is two thin ones.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor
    ) -> Tensor:
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        # Not the merged weight: kept for every layer of a ViT-H it would take 0.6 GB.
        ctx.save_for_backward(x, weight, a, b)
        merged = torch.addmm(weight, b, a).to(x.dtype)
        return functional.linear(x, merged, None if bias is None else bias.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, a, b = ctx.saved_tensors
        (gradient,) = gradients
        rows, inputs = gradient.flatten(0, -2), x.flatten(0, -2)
        of_a = (rows @ b.to(x.dtype)).T @ inputs
        of_b = rows.T @ (inputs @ a.to(x.dtype).T)
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = gradient @ torch.addmm(weight, b, a).to(x.dtype)
        return of_x, None, None, of_a.to(a.dtype), of_b.to(b.dtype)


def product(layer: nn.Module, x: Tensor) -> Tensor:
    """x times a linear layer's weight, without its bias and without dropout."""
    if isinstance(layer, LoraLinear):
        return layer.product(x, bias=False)
    return functional.linear(x, cast(nn.Linear, layer).weight)


def drops(layer: nn.Module) -> bool:
    """Whether a layer's outputs are dropped now, so that its weight cannot be absorbed."""
    return isinstance(layer, LoraLinear) and layer.training and layer.dropout.p > 0


def dropped(layer: nn.Module, values: Tensor) -> Tensor:
    """A layer's outputs, computed elsewhere, after its dropout if it has one."""
    if not isinstance(layer, LoraLinear):
        return values
    found: Tensor = layer.dropout(values)
    return found
