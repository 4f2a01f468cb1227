"""A small SAM from scratch: the loop, its checkpoints and its validation curve.

On the CPU. What it trains on is ``pretrain_data.py``; what it optimises is
``pretrain_loss.py``; every number is in the recipe.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from segment_anything.modeling import Sam
from torch import Tensor

from cellseg1_rt.backbone import Backbone
from cellseg1_rt.errors import ConfigError, WeightsError
from cellseg1_rt.files import atomic_path
from cellseg1_rt.model.initialise import initialise
from cellseg1_rt.model.sam import build_sam, resize_positions
from cellseg1_rt.train.pretrain_data import (
    Pair,
    Sample,
    draw_sample,
    whole_image_sample,
)
from cellseg1_rt.train.pretrain_loss import (
    DenseHead,
    LossWeights,
    dense_targets,
    mask_loss,
    mask_targets,
)
from cellseg1_rt.train.prompting import decode_points, upscale_masks

__all__ = ["PretrainRecipe", "Stage", "pretrain"]


@dataclass(frozen=True)
class Stage:
    """A stretch of training at one image size."""

    image_size: int
    steps: int
    images_per_step: int
    points_per_image: int
    synthetic_share: float


@dataclass(frozen=True)
class PretrainRecipe:
    """The numbers of a pretraining, as in ``train/recipes/tiny.toml``."""

    backbone: str
    seed: int
    held_out_images: int
    validate_every: int
    checkpoint_every: int
    average_decay: float
    optimizer: dict[str, float]
    loss: LossWeights
    stages: tuple[Stage, ...]

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> PretrainRecipe:
        """A recipe from its TOML tables.

        Raises
        ------
        ConfigError : on a missing or unknown field.
        """
        try:
            tables = {
                "loss": LossWeights(**values["loss"]),
                "stages": tuple(Stage(**stage) for stage in values["stages"]),
            }
            return cls(**{**values, **tables})
        except (KeyError, TypeError) as error:
            raise ConfigError(
                "a field is missing or unknown", where="pretrain recipe", got=error
            ) from error

    @property
    def total_steps(self) -> int:
        """Steps of all stages."""
        return sum(stage.steps for stage in self.stages)

    def stage_at(self, step: int) -> Stage:
        """The stage that ``step`` (from 0) belongs to."""
        for stage in self.stages:
            if step < stage.steps:
                return stage
            step -= stage.steps
        return self.stages[-1]

    def learning_rate_at(self, step: int) -> float:
        """Linear warm-up, constant, and linear to zero over the end of the last stage."""
        rate = self.optimizer["learning_rate"]
        decay_steps = max(1, round(self.stages[-1].steps * self.optimizer["decay_share"]))
        left = (self.total_steps - step) / decay_steps
        return rate * min(1.0, (step + 1) / self.optimizer["warmup_steps"], left)


class _Run:
    """Everything that a checkpoint must hold: model, optimiser, average, step."""

    def __init__(self, recipe: PretrainRecipe, backbone: Backbone) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.backbone, self.step = recipe, backbone, 0
        self.image_size = recipe.stages[0].image_size
        self.sam = initialise(build_sam(backbone, self.image_size))
        self.head = DenseHead()
        self.average = {k: v.clone() for k, v in self.sam.state_dict().items()}
        self._new_optimizer()

    def _new_optimizer(self) -> None:
        options = self.recipe.optimizer
        parameters = [*self.sam.parameters(), *self.head.parameters()]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in parameters if p.ndim >= 2]},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(
            groups,
            lr=options["learning_rate"],
            weight_decay=options["weight_decay"],
            betas=(0.9, 0.98),
        )

    def grow(self, image_size: int) -> None:
        """Continue at another image size; the optimiser starts anew, as shapes change."""
        if image_size == self.image_size:
            return
        grown = resize_positions(self.sam.state_dict(), self.backbone, image_size)
        self.average = resize_positions(self.average, self.backbone, image_size)
        self.sam = build_sam(self.backbone, image_size)
        self.sam.load_state_dict(grown)
        self.image_size = image_size
        self._new_optimizer()

    def save(self, path: Path) -> None:
        state = {
            "step": self.step,
            "image_size": self.image_size,
            "sam": self.sam.state_dict(),
            "head": self.head.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
        }
        with atomic_path(path) as temporary:
            torch.save(state, temporary)

    def load(self, path: Path) -> None:
        try:
            state = torch.load(path, weights_only=True)
            self.grow(state["image_size"])
            self.sam.load_state_dict(state["sam"])
            self.head.load_state_dict(state["head"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.average, self.step = state["average"], state["step"]
        except (OSError, KeyError, RuntimeError, EOFError) as error:
            raise WeightsError(
                "checkpoint cannot be resumed",
                where=path,
                got=error,
                fix="remove it to start again, or use the recipe it was made with",
            ) from error


def pretrain(
    recipe: PretrainRecipe,
    backbone: Backbone,
    training: list[Pair],
    validation: list[Pair],
    work: Path,
    *,
    report: Callable[[dict[str, float]], None] = lambda _: None,
) -> dict[str, Tensor]:
    """Train to the recipe's end and return the averaged weights.

    Continues from ``work/checkpoint.pt`` if it is there; on the CPU the continuation is bit-equal
    to an uninterrupted run. ``work/log.jsonl`` gets one line per report.

    Parameters
    ----------
    recipe, backbone : what to train.
    training, validation : real pairs; scenes are drawn besides.
    work : folder for checkpoint and log.
    report : called with the figures of every 50 steps and every validation.

    Returns
    -------
    A state dict in SAM's own key layout at the last stage's image size, float32.
    """
    run = _Run(recipe, backbone)
    checkpoint = work / "checkpoint.pt"
    if checkpoint.exists():
        run.load(checkpoint)
    full_size = recipe.stages[-1].image_size

    def batch_at(step: int) -> list[Sample]:
        stage = recipe.stage_at(step)
        return [
            draw_sample(
                training,
                (recipe.seed, step, position),
                image_size=stage.image_size,
                full_size=full_size,
                points=stage.points_per_image,
                synthetic_share=stage.synthetic_share,
            )
            for position in range(stage.images_per_step)
        ]

    sums: dict[str, float] = {}
    started = time.perf_counter()
    with ThreadPoolExecutor(1) as ahead, (work / "log.jsonl").open("a") as log:
        upcoming = ahead.submit(batch_at, run.step)
        while run.step < recipe.total_steps:
            batch = upcoming.result()
            upcoming = ahead.submit(batch_at, run.step + 1)
            run.grow(recipe.stage_at(run.step).image_size)
            for name, value in _optimise(run, batch).items():
                sums[name] = sums.get(name, 0.0) + value
            run.step += 1
            figures: dict[str, float] = {}
            if run.step % 50 == 0:
                figures = {name: value / 50 for name, value in sums.items()}
                sums = {}
            if run.step % recipe.validate_every == 0 or run.step == recipe.total_steps:
                figures |= _validate(run, validation)
            if figures:
                seconds = time.perf_counter() - started
                figures = {"step": run.step, **figures, "seconds": round(seconds, 1)}
                log.write(json.dumps(figures) + "\n")
                log.flush()
                report(figures)
            if run.step % recipe.checkpoint_every == 0 or run.step == recipe.total_steps:
                run.save(checkpoint)
    return run.average


def _optimise(run: _Run, batch: list[Sample]) -> dict[str, float]:
    recipe = run.recipe
    run.sam.train()
    for group in run.optimizer.param_groups:
        group["lr"] = recipe.learning_rate_at(run.step)
    terms = _losses(run, batch)
    weights = recipe.loss
    loss = terms["mask"] + weights.score * terms["score"] + weights.dense * terms["dense"]
    run.optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    parameters = [p for group in run.optimizer.param_groups for p in group["params"]]
    norm = torch.nn.utils.clip_grad_norm_(parameters, recipe.optimizer["clip_norm"])
    if not torch.isfinite(norm):
        raise WeightsError(
            "loss or gradient is not finite",
            where=f"step {run.step}",
            got=float(loss.detach()),
            fix="resume from the last checkpoint with a lower learning_rate",
        )
    run.optimizer.step()
    # Early on the average must follow fast, or it would keep the random start for long.
    decay = min(recipe.average_decay, (run.step + 1) / (run.step + 10))
    with torch.no_grad():
        for name, value in run.sam.state_dict().items():
            run.average[name].lerp_(value, 1 - decay)
    return {name: float(value.detach()) for name, value in terms.items()}


def _losses(run: _Run, batch: list[Sample]) -> dict[str, Tensor]:
    """Mean losses of a batch: ``mask`` over the points in cells, ``score``, ``dense``."""
    masks, scores, dense = [], [], []
    with torch.autocast("cpu", torch.bfloat16):
        embeddings = _embed(run.sam, batch)
        for index, sample in enumerate(batch):
            embedding = embeddings[index : index + 1]
            decoded = decode_points(run.sam, embedding, torch.from_numpy(sample.points_xy))
            positive = np.flatnonzero(sample.cell)
            logits = upscale_masks(run.sam, decoded.keys[positive], decoded.hyper[positive])
            target = torch.from_numpy(mask_targets(sample.labels, sample.cell[positive]))
            masks.append(mask_loss(logits, target, run.recipe.loss))
            truth = torch.from_numpy((sample.cell > 0).astype(np.float32))
            scores.append((decoded.score.float() - truth) ** 2)
            whole = torch.from_numpy(dense_targets(sample.labels))[None]
            dense.append(run.head.loss(embedding, whole))
    return {
        "mask": torch.cat(masks).mean(),
        "score": torch.cat(scores).mean(),
        "dense": torch.stack(dense).mean(),
    }


def _embed(sam: Sam, batch: list[Sample]) -> Tensor:
    """Embeddings [B, 256, g, g]; normalised first, then zero-padded, as at inference."""
    inputs = []
    for sample in batch:
        image = torch.from_numpy(sample.image).permute(2, 0, 1).float()
        image = (image - sam.pixel_mean) / sam.pixel_std
        image[:, sample.size[0] :] = 0
        image[:, :, sample.size[1] :] = 0
        inputs.append(image)
    embeddings: Tensor = sam.image_encoder(torch.stack(inputs))
    return embeddings


@torch.no_grad()
def _validate(run: _Run, pairs: list[Pair]) -> dict[str, float]:
    """The averaged weights on whole held-out images: mask loss, mean IoU, share of right scores."""
    if not pairs:
        return {}
    sam = build_sam(run.backbone, run.image_size)
    sam.load_state_dict(run.average)
    overlaps, right = [], []
    with torch.autocast("cpu", torch.bfloat16):
        for pair in pairs:
            sample = whole_image_sample(pair, run.image_size, points=32)
            embedding = _embed(sam, [sample])
            decoded = decode_points(sam, embedding, torch.from_numpy(sample.points_xy))
            positive = np.flatnonzero(sample.cell)
            found = upscale_masks(sam, decoded.keys[positive], decoded.hyper[positive]) > 0
            truth = torch.from_numpy(mask_targets(sample.labels, sample.cell[positive])) > 0.5
            both = (found & truth).sum(dim=(1, 2))
            either = (found | truth).sum(dim=(1, 2)).clamp(min=1)
            overlaps.append(both / either)
            right.append((decoded.score.float().numpy() > 0.8) == (sample.cell > 0))
    return {
        "validation_iou": float(torch.cat(overlaps).mean()),
        "validation_score_accuracy": float(np.concatenate(right).mean()),
    }
