"""The training of a LoRA: epochs, optimiser, checkpoints, and what ends it early.

What a batch does is ``lora_step.py``, what it is made of ``lora_samples.py``; every number is in
the recipe. Reading and writing files around it is ``lora_files.py``. May import torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from cellseg1_rt.errors import WeightsError
from cellseg1_rt.model.lora import head_parameters, load_lora, lora_parameters, lora_state
from cellseg1_rt.train.checkpoints import not_resumable, read_checkpoint, write_checkpoint
from cellseg1_rt.train.lora_held_out import judge
from cellseg1_rt.train.lora_loss import TileTensors, tensors_from_sample
from cellseg1_rt.train.lora_progress import Progress
from cellseg1_rt.train.lora_recipe import LoraRecipe
from cellseg1_rt.train.lora_samples import LoraSample, Tile, draw_lora_sample
from cellseg1_rt.train.lora_step import StepOptions, add_gradients

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

__all__ = ["LoraJob", "Trained", "train_lora"]


@dataclass(frozen=True)
class LoraJob:
    """What is trained on what, and how.

    Attributes
    ----------
    recipe : every number.
    epochs : passes over the tiles.
    tiles : what is trained on.
    held_out : what early stopping looks at; empty without it.
    options : memory and precision.
    identity : what else a checkpoint must agree with to be resumed: hashes of the inputs.
    """

    recipe: LoraRecipe
    epochs: int
    tiles: Sequence[Tile]
    held_out: Sequence[LoraSample]
    options: StepOptions
    identity: Mapping[str, Any]

    @property
    def batches(self) -> int:
        """Batches of an epoch; the last may be smaller."""
        return -(-len(self.tiles) // self.recipe.optimizer.batch_tiles)

    def parts(self) -> dict[str, dict[str, Any]]:
        """The identity of a run, for its checkpoint."""
        run = {"epochs": self.epochs, "precision": self.options.precision, **self.identity}
        return {"recipe": self.recipe.to_dict(), "run": run}


@dataclass(frozen=True)
class Trained:
    """What is left of a run.

    Attributes
    ----------
    state : the LoRA to keep, in upstream's layout: of the best validation, or without validations
        of the last whole epoch. None if not one epoch was finished.
    epoch : whole epochs it has seen.
    ended : ``finished``, ``early`` (no better validation for long), ``interrupted``, or
        ``not finite``.
    error : what ended it, if it was an error.
    """

    state: dict[str, Tensor] | None
    epoch: int
    ended: str
    error: WeightsError | None = None


class _Run:
    """Everything that a checkpoint must hold."""

    def __init__(self, job: LoraJob, sam: Sam) -> None:
        self.job, self.sam, self.epoch, self.step = job, sam, 0, 0
        self.kept: dict[str, Tensor] | None = None
        self.kept_epoch, self.best, self.without_better = 0, -math.inf, 0
        options = job.recipe.optimizer
        groups, rates = [lora_parameters(sam)], [options.learning_rate]
        if options.heads_share:
            groups.append(head_parameters(sam))
            for head in groups[1]:
                head.requires_grad_()
            rates.append(options.heads_share * options.learning_rate)
        self.parameters = [parameter for group in groups for parameter in group]
        self.device = self.parameters[0].device
        self.optimizer = torch.optim.AdamW(
            [{"params": group} for group in groups], weight_decay=options.weight_decay
        )
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer,
            max_lr=rates,
            total_steps=options.planned_steps(job.epochs, job.batches),
            pct_start=options.rising_share,
        )

    def save(self, path: Path) -> None:
        state = {
            "epoch": self.epoch,
            "step": self.step,
            "lora": lora_state(self.sam),
            "gradients": [p.grad for p in self.parameters],  # left where a step was skipped
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "random": torch.get_rng_state(),
            "kept": self.kept,
            "validation": [self.kept_epoch, self.best, self.without_better],
        }
        if self.device.type == "cuda":
            state["random_cuda"] = torch.cuda.get_rng_state(self.device)
        write_checkpoint(path, self.job.parts(), state)

    def load(self, path: Path) -> None:
        state = read_checkpoint(path, self.job.parts())
        try:
            load_lora(self.sam, state["lora"], where=path)
            for parameter, gradient in zip(self.parameters, state["gradients"], strict=True):
                parameter.grad = None if gradient is None else gradient.to(self.device)
            self.optimizer.load_state_dict(state["optimizer"])
            self.schedule.load_state_dict(state["schedule"])
            torch.set_rng_state(state["random"])
            if self.device.type == "cuda":
                torch.cuda.set_rng_state(state["random_cuda"], self.device)
            self.epoch, self.step, self.kept = state["epoch"], state["step"], state["kept"]
            self.kept_epoch, self.best, self.without_better = state["validation"]
        except (LookupError, TypeError, ValueError, RuntimeError) as error:
            raise not_resumable(path, error) from error

    def keep(self) -> None:
        self.kept, self.kept_epoch = lora_state(self.sam), self.epoch


def train_lora(
    sam: Sam,
    job: LoraJob,
    work: Path,
    *,
    report: Callable[[dict[str, float]], None] = lambda _: None,
) -> Trained:
    """Train the LoRA of ``sam``, in place, going on from ``work/checkpoint.pt`` if it is there.

    On the CPU the continuation is bit-equal to an uninterrupted run. An interrupt from the keyboard
    and a loss that is not finite end the run; what is kept is returned then too.

    Parameters
    ----------
    sam : with a fresh LoRA (``add_lora``), on the device to train on.
    job : what to train on what.
    work : folder for ``checkpoint.pt``, ``log.jsonl`` and ``curves.png``.
    report : called with the figures of every step and every validation.

    Raises
    ------
    WeightsError : if the checkpoint is damaged or of another run.
    """
    torch.manual_seed(job.recipe.seed)
    run = _Run(job, sam)
    checkpoint = work / "checkpoint.pt"
    if checkpoint.exists():
        run.load(checkpoint)
    held_out = [tensors_from_sample(sample).to(run.device) for sample in job.held_out]
    steps = sum(job.recipe.optimizer.is_step_due(b, job.batches) for b in range(job.batches))
    ended, failed = "finished", None
    try:
        with Progress(work, run.step, steps * job.epochs, run.device, report) as progress:
            while run.epoch < job.epochs:
                if _has_stalled(run):
                    ended = "early"
                    break
                _train_epoch(run, progress)
                run.epoch += 1
                _validate(run, held_out, progress)
                run.save(checkpoint)
                progress.draw()
    except KeyboardInterrupt:
        ended = "interrupted"
    except WeightsError as error:
        ended, failed = "not finite", error
    return Trained(run.kept, run.kept_epoch, ended, failed)


def _has_stalled(run: _Run) -> bool:
    stop = run.job.recipe.early_stop
    return stop is not None and run.without_better >= stop.patience


def _train_epoch(run: _Run, progress: Progress) -> None:
    options = run.job.recipe.optimizer
    run.sam.train()
    for index, batch in enumerate(_batches(run)):
        if not batch:
            continue  # together with a step that would be due
        tiles = [tensors_from_sample(sample).to(run.device) for sample in batch]
        divisor = options.divisor_of(index, run.job.batches)
        losses = add_gradients(run.sam, tiles, run.job.options, divisor)
        _require_finite(run, index, losses.total)
        progress.add(losses, len(tiles))
        if options.is_step_due(index, run.job.batches):
            rate = float(run.schedule.get_last_lr()[0])
            run.optimizer.step()
            run.schedule.step()
            run.optimizer.zero_grad(set_to_none=True)
            run.step += 1
            progress.report(run.epoch + 1, run.step, rate)


def _require_finite(run: _Run, batch: int, loss: float) -> None:
    finite = torch.stack([p.grad.isfinite().all() for p in run.parameters if p.grad is not None])
    if math.isfinite(loss) and bool(finite.all()):
        return
    raise WeightsError(
        "loss or gradient is not finite",
        where=f"epoch {run.epoch + 1}, batch {batch + 1}, step {run.step + 1}",
        got=f"a loss of {loss:.4g}",
        fix="resume from the last epoch in fp32, or train again with a lower learning_rate",
    )


def _batches(run: _Run) -> Iterator[list[LoraSample]]:
    """The batches of the run's epoch, in an order of its own, drawn one ahead."""
    job, seed = run.job, (run.job.recipe.seed, run.epoch)
    order = np.random.default_rng(seed).permutation(len(job.tiles)).tolist()
    size = job.recipe.optimizer.batch_tiles

    def draw(first: int) -> list[LoraSample]:
        places = range(first, min(first + size, len(order)))
        drawn = (
            draw_lora_sample(job.tiles[order[place]], (*seed, place), job.recipe.data)
            for place in places
        )
        return [sample for sample in drawn if sample is not None]

    with ThreadPoolExecutor(1) as ahead:
        upcoming = ahead.submit(draw, 0)
        for first in range(0, len(order), size):
            batch = upcoming.result()
            upcoming = ahead.submit(draw, first + size)
            yield batch


def _validate(run: _Run, held_out: Sequence[TileTensors], progress: Progress) -> None:
    """Keep the LoRA as it is now if it is the best so far; always where nothing is held out."""
    stop = run.job.recipe.early_stop
    if stop is None or not held_out:
        run.keep()
        return
    if run.epoch % stop.validate_every and run.epoch < run.job.epochs:
        return
    figures = judge(run.sam, held_out, run.job.options)
    progress.report_validation(run.epoch, run.step, figures)
    if figures["held_out_score"] > run.best:
        run.best, run.without_better = figures["held_out_score"], 0
        run.keep()
    else:
        run.without_better += 1
