"""A small SAM from scratch: the loop, its checkpoints and its validation curve.

On the CPU. What it trains on is ``pretrain_data.py``; what it optimises is
``pretrain_loss.py``; every number is in the recipe. The model has its full size from the first
step; early stages show it windows of its input, which are cheap and mean the same.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from segment_anything.modeling import Sam
from torch import Tensor

from cellseg1_rt.backbone import Backbone
from cellseg1_rt.errors import WeightsError
from cellseg1_rt.model.decoding import decode_points
from cellseg1_rt.model.encoding import encode_window
from cellseg1_rt.model.initialise import initialise
from cellseg1_rt.model.sam import build_sam
from cellseg1_rt.train.checkpoints import (
    keep_log_until,
    not_resumable,
    read_checkpoint,
    write_checkpoint,
)
from cellseg1_rt.train.pretrain_batch import Batch, collate, masks_of_cells
from cellseg1_rt.train.pretrain_data import Pair, TrainingSet, draw_sample
from cellseg1_rt.train.pretrain_loss import DenseHead, mask_loss, score_targets
from cellseg1_rt.train.pretrain_recipe import PretrainRecipe
from cellseg1_rt.train.pretrain_validation import mask_logit_scale, score_scale, validate

__all__ = ["pretrain"]

_LAST_OF_HYPER = "mask_decoder.output_hypernetworks_mlps.0.layers.2."
"""The layer whose outputs mask logits are linear in."""

_LAST_OF_SCORE = "mask_decoder.iou_prediction_head.layers.2."

REPORT_EVERY = 50
"""Steps whose mean losses make a line of the log."""


class _Run:
    """Everything that a checkpoint must hold: model, optimiser, average, step, running sums."""

    def __init__(
        self, recipe: PretrainRecipe, backbone: Backbone, start: Mapping[str, Tensor] | None
    ) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.backbone, self.step = recipe, backbone, 0
        self.sam = initialise(build_sam(backbone, recipe.image_size))
        self.start = "random"
        if start is not None:
            self.sam.load_state_dict(start)
            self.start = _digest(self.sam.state_dict())
        self.head = DenseHead()
        self.average = {k: v.clone() for k, v in self.sam.state_dict().items()}
        self.sums: dict[str, float] = {}
        self.parameters = [*self.sam.parameters(), *self.head.parameters()]
        options = recipe.optimizer
        groups: list[dict[str, Any]] = [
            {"params": [p for p in self.parameters if p.ndim >= 2]},
            {"params": [p for p in self.parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(
            groups,
            lr=options.learning_rate,
            weight_decay=options.weight_decay,
            betas=(options.beta1, options.beta2),
            foreach=True,
        )

    def averaged_sam(self) -> Sam:
        """The model as it would be kept now."""
        sam = build_sam(self.backbone, self.recipe.image_size)
        sam.load_state_dict(self.average)
        return sam

    def identity(self) -> dict[str, Any]:
        """What a checkpoint must agree with to be resumed."""
        return {
            "recipe": self.recipe.to_dict(),
            "backbone": self.backbone.to_dict(),
            "weights": {"start": self.start},
        }

    def save(self, path: Path) -> None:
        state = {
            "step": self.step,
            "sums": self.sums,
            "sam": self.sam.state_dict(),
            "head": self.head.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
        }
        write_checkpoint(path, self.identity(), state)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint.

        Raises
        ------
        WeightsError : if it cannot be read, or is of another recipe, backbone or start.
        """
        state = read_checkpoint(path, self.identity())
        try:
            self.sam.load_state_dict(state["sam"])
            self.head.load_state_dict(state["head"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.average, self.step = state["average"], state["step"]
            self.sums = state["sums"]
        except (LookupError, RuntimeError, TypeError, ValueError) as error:
            raise not_resumable(path, error) from error


def pretrain(
    recipe: PretrainRecipe,
    backbone: Backbone,
    training: list[Pair],
    validation: list[Pair],
    work: Path,
    *,
    start: Mapping[str, Tensor] | None = None,
    report: Callable[[dict[str, float]], None] = lambda _: None,
) -> dict[str, Tensor]:
    """Train to the recipe's end and return the averaged weights, with calibrated masks and score.

    Continues from ``work/checkpoint.pt`` if it is there; on the CPU the continuation is bit-equal
    to an uninterrupted run. ``work/log.jsonl`` gets one line per report; what it holds of steps
    after the checkpoint is dropped, since they are made again.

    Parameters
    ----------
    recipe, backbone : what to train.
    training, validation : real pairs; scenes are drawn besides.
    work : folder for checkpoint and log.
    start : a SAM's weights to begin with, in SAM's own key layout; None begins with random ones.
    report : called with the figures of every 50 steps and every validation.

    Returns
    -------
    A state dict in SAM's own key layout, float32. Its mask logits and its score are scaled to the
    held-out pairs.
    """
    run = _Run(recipe, backbone, start)
    checkpoint = work / "checkpoint.pt"
    if checkpoint.exists():
        run.load(checkpoint)
    log_path = work / "log.jsonl"
    seconds_before = keep_log_until(log_path, run.step)
    real = TrainingSet(training)
    started = time.perf_counter()
    with ThreadPoolExecutor(1) as ahead, log_path.open("a") as log:
        upcoming = ahead.submit(_batch_at, recipe, real, run.step)
        while run.step < recipe.total_steps:
            batch = upcoming.result()
            upcoming = ahead.submit(_batch_at, recipe, real, run.step + 1)
            for name, value in _optimise(run, batch).items():
                run.sums[name] = run.sums.get(name, 0.0) + value
            run.step += 1
            figures: dict[str, float] = {}
            if run.step % REPORT_EVERY == 0:
                figures = {name: value / REPORT_EVERY for name, value in run.sums.items()}
                run.sums = {}
            if run.step % recipe.validate_every == 0 or run.step == recipe.total_steps:
                figures |= validate(run.averaged_sam(), validation)
            if figures:
                seconds = seconds_before + time.perf_counter() - started
                figures = {"step": run.step, **figures, "seconds": round(seconds, 1)}
                log.write(json.dumps(figures) + "\n")
                log.flush()
                report(figures)
            if run.step % recipe.checkpoint_every == 0 or run.step == recipe.total_steps:
                run.save(checkpoint)
    return _calibrated(run, validation, report)


def _calibrated(
    run: _Run, validation: list[Pair], report: Callable[[dict[str, float]], None]
) -> dict[str, Tensor]:
    """The averaged weights, with mask logits and score scaled to the held-out pairs."""
    sam = run.averaged_sam()
    masks, score = mask_logit_scale(sam, validation), score_scale(sam, validation)
    report({"step": run.step, "mask_logit_scale": masks, "score_scale": score})
    weights = dict(run.average)
    for part in ("weight", "bias"):
        weights[_LAST_OF_HYPER + part] = weights[_LAST_OF_HYPER + part] * masks
        weights[_LAST_OF_SCORE + part] = weights[_LAST_OF_SCORE + part] * score
    weights[_LAST_OF_SCORE + "bias"] = weights[_LAST_OF_SCORE + "bias"] + (1 - score)
    return weights


def _digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of a model's tensors, in their order."""
    digest = hashlib.sha256()
    for value in state.values():
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()


def _batch_at(recipe: PretrainRecipe, real: TrainingSet, step: int) -> Batch:
    stage = recipe.stage_at(step)
    return collate(
        [
            draw_sample(
                real,
                (recipe.seed, step, position),
                window_px=stage.window_px,
                image_size=recipe.image_size,
                points=stage.points_per_image,
                synthetic_share=stage.synthetic_share,
            )
            for position in range(stage.images_per_step)
        ]
    )


def _optimise(run: _Run, batch: Batch) -> dict[str, float]:
    recipe = run.recipe
    run.sam.train()
    for group in run.optimizer.param_groups:
        group["lr"] = recipe.learning_rate_at(run.step)
    terms = _losses(run, batch)
    weights = recipe.loss
    loss = terms["mask"] + weights.score * terms["score"] + weights.dense * terms["dense"]
    run.optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    norm = torch.nn.utils.clip_grad_norm_(run.parameters, recipe.optimizer.clip_norm)
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
        values = run.sam.state_dict()
        torch._foreach_lerp_([run.average[name] for name in values], [*values.values()], 1 - decay)
    return {name: float(value.detach()) for name, value in terms.items()}


def _losses(run: _Run, batch: Batch) -> dict[str, Tensor]:
    """Mean losses of a batch: ``mask`` over the first P points, ``score``, ``dense``."""
    with torch.autocast("cpu", torch.bfloat16):
        embedding = encode_window(run.sam.image_encoder, batch.pixels, batch.origins)
        decoded = decode_points(run.sam, embedding.bfloat16(), batch.points_xy, batch.origins)
        logits = masks_of_cells(run.sam, decoded, batch)
        dense = run.head.loss(embedding, batch.dense)
    masks = batch.masks.flatten(0, 1)
    others = (batch.dense[:, :1] - batch.masks).clamp(min=0).flatten(0, 1)
    wanted = score_targets(batch.in_cell, logits, masks, run.recipe.loss.quality)
    return {
        "mask": mask_loss(logits, masks, others, run.recipe.loss).mean(),
        "score": ((decoded.score.float() - wanted.flatten()) ** 2).mean(),
        "dense": dense,
    }
