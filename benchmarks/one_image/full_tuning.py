"""The study's control: all weights of the same model, on the same samples, with the same loss.

A LoRA's learning rate would wreck weights that are trained already, so it is a tenth of it here.
Nothing is held out: training goes to the schedule's end, and its last state is what counts, all of
it. Everything else is the recipe's.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from cellseg1_rt.model.weights import load_sam, write_safetensors
from cellseg1_rt.settings import InferenceSettings
from cellseg1_rt.train.crops_for_cells import with_crops_for_cells
from cellseg1_rt.train.lora_choices import SamSource
from cellseg1_rt.train.lora_inputs import describe_images, pair_files, read_training_image
from cellseg1_rt.train.lora_loss import tensors_from_sample
from cellseg1_rt.train.lora_recipe import LoraRecipe
from cellseg1_rt.train.lora_samples import Tile, draw_lora_sample, tiles_of_pairs
from cellseg1_rt.train.lora_step import StepOptions, add_gradients

RATE_SHARE = 0.1


def tune_all_weights(
    source: SamSource, folder: Path, recipe: LoraRecipe, output: Path
) -> dict[str, object]:
    """Train on the pairs of ``folder`` and write the weights in SAM's key layout."""
    images = [
        read_training_image(*pair) for pair in pair_files(folder / "images", folder / "labels")
    ]
    looking, _ = with_crops_for_cells(
        InferenceSettings(), describe_images(images), recipe.data.image_size
    )
    pairs = [(one.rgb, one.labels) for one in images]
    tiles = tiles_of_pairs(pairs, recipe.data, looking.crops)
    torch.manual_seed(recipe.seed)
    sam = load_sam(source.weights, source.backbone, recipe.data.image_size).train()
    options = recipe.optimizer
    optimizer = torch.optim.AdamW(
        sam.parameters(),
        lr=RATE_SHARE * options.learning_rate,
        weight_decay=options.weight_decay,
    )
    batches = -(-len(tiles) // options.batch_tiles)
    epochs = recipe.schedule.epochs_for(len(images))
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=RATE_SHARE * options.learning_rate,
        total_steps=options.planned_steps(epochs, batches),
        pct_start=options.rising_share,
    )
    how = StepOptions(tiles_at_once=options.batch_tiles, precision="bf16")
    for epoch in range(epochs):
        for batch in range(batches):
            drawn = _batch(tiles, recipe, epoch, batch)
            if not drawn:
                continue
            add_gradients(
                sam,
                [tensors_from_sample(sample) for sample in drawn],
                how,
                options.divisor_of(batch, batches),
            )
            if options.is_step_due(batch, batches):
                optimizer.step()
                schedule.step()
                optimizer.zero_grad(set_to_none=True)
    write_safetensors(output, sam.state_dict(), {"backbone": source.backbone.name})
    return {"epoch": epochs, "ended": "finished"}


def _batch(tiles: list[Tile], recipe: LoraRecipe, epoch: int, batch: int) -> list:
    """The same samples, in the same order, as a LoRA of this recipe sees."""
    order = np.random.default_rng((recipe.seed, epoch)).permutation(len(tiles)).tolist()
    first = batch * recipe.optimizer.batch_tiles
    places = range(first, min(first + recipe.optimizer.batch_tiles, len(tiles)))
    drawn = (
        draw_lora_sample(tiles[order[place]], (recipe.seed, epoch, place), recipe.data)
        for place in places
    )
    return [sample for sample in drawn if sample is not None]
