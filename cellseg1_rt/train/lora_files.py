"""``train`` from an annotated image to a LoRA file: what is read, told and written.

May import torch, and segment-anything through the model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from cellseg1_rt.backbone import Backbone
from cellseg1_rt.errors import ConfigError
from cellseg1_rt.files import require_writable_folder, sha256_of_file
from cellseg1_rt.model.lora import add_lora, load_lora, lora_state, write_lora
from cellseg1_rt.model.lora_layout import lora_sites
from cellseg1_rt.model.weights import load_sam
from cellseg1_rt.settings import InferenceSettings
from cellseg1_rt.train.crops_for_cells import finest_crop_px, with_crops_for_cells
from cellseg1_rt.train.lora_choices import SamSource, TrainOptions, find_device
from cellseg1_rt.train.lora_held_out import Pair, split_pair
from cellseg1_rt.train.lora_inputs import (
    TrainingImage,
    describe_images,
    pair_files,
    read_training_image,
)
from cellseg1_rt.train.lora_loop import LoraJob, Trained, train_lora
from cellseg1_rt.train.lora_memory import encoder_bytes, tiles_that_fit
from cellseg1_rt.train.lora_recipe import EarlyStop, LoraRecipe
from cellseg1_rt.train.lora_samples import LoraSample, SampleSettings, tiles_of_pairs
from cellseg1_rt.train.lora_step import StepOptions
from cellseg1_rt.train.preview import write_preview
from cellseg1_rt.train.start_share import found_before, shared_lora
from cellseg1_rt.version import __version__

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

__all__ = ["train_files"]


def train_files(
    image: Path,
    labels: Path,
    output: Path,
    source: SamSource,
    recipe: LoraRecipe,
    options: TrainOptions,
    *,
    work: Path | None = None,
    resume: bool = False,
    report: Callable[[dict[str, float]], None] = lambda _: None,
    tell: Callable[[str], None] = lambda _: None,
) -> Trained:
    """Train a LoRA on an annotated image, or on two folders of them, and write it.

    Parameters
    ----------
    image, labels : files, or folders whose files pair by name.
    output : ``.pth``, as upstream writes it, with NAME.json beside it; or ``.safetensors``.
    source : what training starts from.
    recipe, options : what is done, and where.
    work : folder for checkpoint, log, curves and preview; by default ``output`` with suffix
        ``.work``.
    resume : go on from the checkpoint; without it, one that is there is an error.
    report : called with the figures of every step and every validation.
    tell : called with warnings and with choices that were made.

    Returns
    -------
    What was trained. ``output`` is written unless not one epoch was finished.

    Raises
    ------
    InputError, ConfigError, WeightsError : on inputs that cannot be used.
    WeightsError : on a loss that is not finite, once what was good before it is written.
    KeyboardInterrupt : once what is kept is written.
    """
    work = work if work is not None else output.with_suffix(".work")
    _require_places(output, work, resume)
    images = [read_training_image(*pair, tell) for pair in pair_files(image, labels)]
    device = find_device(options.device, tell)
    sam = load_sam(source.weights, source.backbone, recipe.data.image_size)
    looking, _ = with_crops_for_cells(
        InferenceSettings(), describe_images(images), recipe.data.image_size
    )
    job = _job(recipe, options, images, looking, source, device.type, tell)
    torch.manual_seed(recipe.seed)
    sam = add_lora(sam, recipe.lora.rank, recipe.lora.dropout).to(device)
    share = _share_to_keep(sam, images, looking, tell) if recipe.keep_known else 1.0
    start = lora_state(sam)
    job = replace(job, options=_fitted(job, options, source.backbone, sam, tell))
    trained = train_lora(sam, job, work, report=report)
    if trained.state is not None:
        sites = lora_sites(source.backbone.depth, source.backbone.embed_dim)
        trained = replace(trained, state=shared_lora(start, trained.state, sites, share))
    _write(output, trained, job, images, share, tell)
    if trained.state is not None:
        preview = work / "preview.png"
        count = write_preview(preview, load_lora(sam, trained.state).eval(), images[0], looking)
        tell(
            f"{preview}: {count} cells found in {images[0].path.name} with --crops "
            f"{looking.crops}, beside its annotation"
        )
    return trained


def _require_places(output: Path, work: Path, resume: bool) -> None:
    if output.suffix not in (".pth", ".safetensors"):
        raise ConfigError(
            "not a name for a LoRA file",
            where=output,
            expected="a name ending in .pth or .safetensors",
        )
    require_writable_folder(output.resolve().parent)
    require_writable_folder(work)
    if (work / "checkpoint.pt").exists() and not resume:
        raise ConfigError(
            "holds the checkpoint of another run",
            where=work,
            fix="pass --resume to go on from it, or choose another --work folder",
        )


def _job(
    recipe: LoraRecipe,
    options: TrainOptions,
    images: Sequence[TrainingImage],
    looking: InferenceSettings,
    source: SamSource,
    device_type: str,
    tell: Callable[[str], None],
) -> LoraJob:
    pairs = [(one.rgb, one.labels) for one in images]
    held_out: list[LoraSample] = []
    if recipe.early_stop is not None:
        pairs, held_out = _hold_out(recipe.early_stop, recipe.data, images, looking, tell)
    epochs = options.epochs or recipe.schedule.epochs_for(len(images))
    identity = {
        "sam": sha256_of_file(source.weights),
        "images": [list(one.sha256) for one in images],
        "backbone": source.backbone.to_dict(),
        "device": device_type,
    }
    tiles = tiles_of_pairs(pairs, recipe.data, looking.crops)
    step = StepOptions(1, precision=options.precision, checkpointing=options.gradient_checkpointing)
    job = LoraJob(recipe, epochs, tiles, held_out, step, identity)
    tell(
        f"{len(images)} images, {sum(int(one.labels.max()) for one in images)} cells, "
        f"{len(tiles)} tiles, {job.batches} batches × {epochs} epochs"
    )
    return job


def _share_to_keep(
    sam: Sam,
    images: Sequence[TrainingImage],
    looking: InferenceSettings,
    tell: Callable[[str], None],
) -> float:
    """The share of what training changes that the SAM was lacking."""
    found = found_before(sam.eval(), images, looking)
    tell(
        f"AP@0.5 of the annotation before training: {found:.2f}; "
        f"{1 - found:.0%} of what training changes is kept"
    )
    return 1 - found


def _hold_out(
    stop: EarlyStop,
    settings: SampleSettings,
    images: Sequence[TrainingImage],
    looking: InferenceSettings,
    tell: Callable[[str], None],
) -> tuple[list[Pair], list[LoraSample]]:
    """Pairs without their corners, and the corners; all of every image if those hold too little."""
    splits = []
    for one in images:
        height, width = one.labels.shape
        crop_px = finest_crop_px(height, width, looking.crops)
        tile_px = crop_px if settings.windows == "crops" else settings.tile_px
        splits.append(split_pair(one.rgb, one.labels, stop.corner_share, settings, tile_px))
    cells = sum(split.cells for split in splits)
    if cells < stop.least_cells:
        tell(
            f"warning: nothing is held out, so training does not stop early: the corners hold "
            f"{cells} whole cells; the recipe wants {stop.least_cells}"
        )
        return [(one.rgb, one.labels) for one in images], []
    tell(f"held out: a corner with {cells} whole cells, on which it is judged when to stop")
    judged = [split.held_out for split in splits if len(split.held_out.cell)]
    return [split.rest for split in splits], judged


def _fitted(
    job: LoraJob,
    options: TrainOptions,
    backbone: Backbone,
    sam: Sam,
    tell: Callable[[str], None],
) -> StepOptions:
    """Tiles at once: as told, or the recipe's batch, or on a card what fits of it."""
    batch = job.recipe.optimizer.batch_tiles
    if options.batch is not None:
        return replace(job.options, tiles_at_once=min(batch, options.batch))
    device = sam.device
    if device.type != "cuda":
        return replace(job.options, tiles_at_once=batch)
    free, _ = torch.cuda.mem_get_info(device)
    if options.precision == "bf16":  # autocast keeps its own copies of the weights
        free -= 2 * sum(parameter.numel() for parameter in sam.parameters())
    needed = encoder_bytes(
        backbone,
        job.recipe.data.image_size,
        options.precision,
        checkpointing=options.gradient_checkpointing,
    )
    fits = tiles_that_fit(free, needed, batch)
    tell(
        f"{fits} of a batch's {batch} tiles at once: {free / 1e9:.1f} GB free, "
        f"about {needed / 1e9:.1f} GB a tile"
    )
    return replace(job.options, tiles_at_once=fits)


def _write(
    output: Path,
    trained: Trained,
    job: LoraJob,
    images: Sequence[TrainingImage],
    share: float,
    tell: Callable[[str], None],
) -> None:
    if trained.state is not None:
        told = {
            "trained_with": f"cellseg1-rt {__version__} train",
            "training_sam_sha256": str(job.identity["sam"]),
            "training_recipe": json.dumps(job.recipe.to_dict()),
            "training_seed": str(job.recipe.seed),
            "training_precision": job.options.precision,
            "training_epochs": f"{trained.epoch} of {job.epochs}",
            "training_ended": trained.ended,
            "training_share_kept": f"{share:.4f}",
            **describe_images(images),
        }
        write_lora(output, trained.state, told)
        tell(f"{output}: LoRA of epoch {trained.epoch} of {job.epochs}")
    else:
        tell(f"{output}: not written, since not one epoch was finished")
    if trained.error is not None:
        raise trained.error
    if trained.ended == "interrupted":
        raise KeyboardInterrupt
