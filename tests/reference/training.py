"""CellSeg1's training step in plain PyTorch: segment-anything's modules, LoRA as upstream has it.

Written from the method's description: the LoRA wraps layers of the frozen SAM, dropout acts on the
sum, all seven decoder tokens are dense, and every point's masks are decoded. A sample is anything
with ``image`` uint8 [S, S, 3], ``labels`` int [S, S], ``points_xy`` float [N, 2] and ``cell``
int [N], 0 in background.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from segment_anything.modeling import Sam
from torch import Tensor, nn
from torch.nn import functional

from reference.model import PIXEL_MEAN, PIXEL_STD

ACCUMULATE = 8


class LoraQkv(nn.Module):
    """A fused qkv with an update on q and one on v; dropout on all three."""

    def __init__(self, qkv: nn.Linear, q: tuple, v: tuple, dropout: nn.Module) -> None:
        super().__init__()
        self.qkv, self.dim = qkv, qkv.in_features
        self.a_q, self.b_q = q
        self.a_v, self.b_v = v
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x)
        new_q = x @ self.a_q.T @ self.b_q.T
        new_v = x @ self.a_v.T @ self.b_v.T
        qkv[..., : self.dim] += new_q
        qkv[..., -self.dim :] += new_v
        return self.dropout(qkv)


class LoraProjection(nn.Module):
    """A projection with an update; dropout on the sum."""

    def __init__(self, projection: nn.Linear, a: Tensor, b: Tensor, dropout: nn.Module) -> None:
        super().__init__()
        self.projection, self.a, self.b, self.dropout = projection, a, b, dropout

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.projection(x) + x @ self.a.T @ self.b.T)


def add_lora(
    sam: Sam, state: Mapping[str, Tensor], dropout: Any = lambda name: nn.Identity()
) -> dict[str, nn.Parameter]:
    """Freeze a SAM and put a LoRA of upstream's flat layout into it.

    ``dropout`` makes a layer's dropout from the layer's name in the SAM. Returns the parameters by
    their names in the file.
    """
    sam.requires_grad_(False)
    new = {key: nn.Parameter(value.clone()) for key, value in state.items() if "." not in key}

    def pair(prefix: str, number: int) -> tuple[nn.Parameter, nn.Parameter]:
        return new[f"{prefix}_a_{number:03d}"], new[f"{prefix}_b_{number:03d}"]

    for index, block in enumerate(sam.image_encoder.blocks):
        q, v = pair("w", 2 * index), pair("w", 2 * index + 1)
        name = f"image_encoder.blocks.{index}.attn.qkv"
        block.attn.qkv = LoraQkv(block.attn.qkv, q, v, dropout(name))
    transformer, root = sam.mask_decoder.transformer, "mask_decoder.transformer"
    for index, layer in enumerate(transformer.layers):
        for prefix, place in (
            ("sa", "self_attn"),
            ("cti", "cross_attn_token_to_image"),
            ("cit", "cross_attn_image_to_token"),
        ):
            attention = getattr(layer, place)
            for number, part in ((2 * index, "q_proj"), (2 * index + 1, "v_proj")):
                name = f"{root}.layers.{index}.{place}.{part}"
                wrapped = LoraProjection(
                    getattr(attention, part), *pair(prefix, number), dropout(name)
                )
                setattr(attention, part, wrapped)
    final = transformer.final_attn_token_to_image
    for part in "qv":
        name = f"{root}.final_attn_token_to_image.{part}_proj"
        a, b = new[f"fati_{part}a"], new[f"fati_{part}b"]
        wrapped = LoraProjection(getattr(final, f"{part}_proj"), a, b, dropout(name))
        setattr(final, f"{part}_proj", wrapped)
    return new


def predict_tile(sam: Sam, embedding: Tensor, points_xy: Tensor) -> tuple[Tensor, Tensor]:
    """Scores [N] and mask logits [N, S/4, S/4] of one positive point a prompt."""
    sparse, dense = sam.prompt_encoder(
        points=(points_xy[:, None], torch.ones(len(points_xy), 1)), boxes=None, masks=None
    )
    masks, score = sam.mask_decoder(
        image_embeddings=embedding,
        image_pe=sam.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=False,
    )
    return score[:, 0], masks[:, 0]


def batch_loss(sam: Sam, samples: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """(MSE of the scores over all points, BCE of the masks over positive points) of a batch."""
    pixels = torch.stack([torch.from_numpy(sample.image).float() for sample in samples])
    pixels = (pixels - torch.tensor(PIXEL_MEAN)) / torch.tensor(PIXEL_STD)
    embeddings = sam.image_encoder(pixels.permute(0, 3, 1, 2))
    scores, targets, logits, truths = [], [], [], []
    for sample, embedding in zip(samples, embeddings, strict=True):
        points = torch.from_numpy(sample.points_xy)
        tile_scores, tile_logits = predict_tile(sam, embedding[None], points)
        for score, logit, cell in zip(tile_scores, tile_logits, sample.cell.tolist(), strict=True):
            mask = torch.from_numpy(sample.labels == cell).float()[None, None]
            small = functional.interpolate(mask, size=logit.shape, mode="nearest")[0, 0]
            positive = cell > 0 and bool(small.any())
            scores.append(score)
            targets.append(float(positive))
            if positive:
                logits.append(logit)
                truths.append(small)
    of_scores = functional.mse_loss(torch.stack(scores), torch.tensor(targets))
    if not logits:
        return of_scores, torch.zeros(())
    of_masks = functional.binary_cross_entropy_with_logits(torch.stack(logits), torch.stack(truths))
    return of_scores, of_masks


def train(
    sam: Sam,
    parameters: Mapping[str, nn.Parameter],
    epochs: Sequence[Sequence[Sequence[Any]]],
    learning_rate: float = 3e-3,
) -> list[float]:
    """Train on epochs of batches of samples; returns every batch's loss (NaN of an empty one)."""
    optimizer = torch.optim.AdamW(parameters.values(), lr=learning_rate, weight_decay=0.01)
    count = len(epochs[0])
    total = len(epochs) * (count + 7) // 8
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=learning_rate, total_steps=total, pct_start=0.3
    )
    losses = []
    for batches in epochs:
        for index, batch in enumerate(batches):
            if not batch:
                losses.append(float("nan"))
                continue
            last = index == count - 1
            group = (index % ACCUMULATE) + 1 if last else ACCUMULATE
            loss = sum(batch_loss(sam, batch))
            (loss / group).backward()
            losses.append(float(loss.detach()))
            if last or (index + 1) % ACCUMULATE == 0:
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
    return losses
