"""Recipes of LoRA training: the published numbers and counts, and what is refused."""

from __future__ import annotations

import copy
from dataclasses import asdict
from typing import Any

import pytest

from cellseg1_rt.errors import ConfigError
from cellseg1_rt.recipes import read_recipe
from cellseg1_rt.train.lora_recipe import LoraOptimizer, LoraRecipe
from cellseg1_rt.train.lora_samples import SampleSettings

STEPS_OF_8 = LoraOptimizer(3e-3, 0.01, 0.3, batch_tiles=4, batches_per_step=8)


def shipped(name: str) -> LoraRecipe:
    return LoraRecipe.from_dict(read_recipe("train", name))


def test_the_published_numbers():
    recipe = shipped("published")
    assert recipe.seed == 0
    assert asdict(recipe.lora) == {"rank": 4, "dropout": 0.1}
    assert recipe.optimizer == STEPS_OF_8
    assert recipe.data == SampleSettings()
    assert recipe.early_stop is None
    epochs = {images: recipe.schedule.epochs_for(images) for images in (1, 5, 10, 11, 89)}
    assert epochs == {1: 300, 5: 300, 10: 300, 11: 30, 89: 30}


def test_the_published_recipe_names_every_number():
    assert set(read_recipe("train", "published")["data"]) == set(asdict(SampleSettings()))


def test_quick_is_quicker():
    quick, published = shipped("quick"), shipped("published")
    assert quick.schedule.epochs < published.schedule.epochs / 10
    assert quick.lora.dropout == 0
    assert quick.early_stop is not None


@pytest.mark.parametrize(
    "batches, due, divisors",
    [
        pytest.param(1, [0], [1], id="1"),
        pytest.param(3, [2], [8, 8, 3], id="3"),
        pytest.param(8, [7], [8] * 8, id="8"),
        pytest.param(9, [7, 8], [8] * 8 + [1], id="9"),
        pytest.param(12, [7, 11], [8] * 11 + [4], id="12"),
        pytest.param(16, [7, 15], [8] * 16, id="16"),
    ],
)
def test_when_steps_are_due_and_what_losses_are_divided_by(
    batches: int, due: list[int], divisors: list[int]
):
    places = range(batches)
    assert [b for b in places if STEPS_OF_8.is_step_due(b, batches)] == due
    assert [STEPS_OF_8.divisor_of(b, batches) for b in places] == divisors


@pytest.mark.parametrize(
    "epochs, batches, planned, made",
    [
        pytest.param(300, 12, 712, 600, id="one-512px-image"),
        pytest.param(30, 8, 56, 30, id="8-batches"),
        pytest.param(1, 1, 1, 1, id="one"),
        pytest.param(7, 9, 14, 14, id="9-batches"),
        pytest.param(3, 23, 11, 9, id="23-batches"),
    ],
)
def test_planned_steps(epochs: int, batches: int, planned: int, made: int):
    """epochs·(batches + 7) // 8 in this precedence; an epoch makes a step less than that or so."""
    assert STEPS_OF_8.planned_steps(epochs, batches) == planned
    due = sum(STEPS_OF_8.is_step_due(batch, batches) for batch in range(batches))
    assert epochs * due == made <= planned


def test_a_recipe_tells_itself_apart():
    recipe = shipped("quick")
    assert LoraRecipe.from_dict(recipe.to_dict()) == recipe
    assert shipped("published").to_dict() != recipe.to_dict()


@pytest.mark.parametrize("name", ["tiny"])
def test_a_pretraining_recipe_is_named_as_one(name: str):
    with pytest.raises(ConfigError, match="a recipe for pretrain, not for train") as caught:
        shipped(name)
    assert "choose published or quick" in str(caught.value)


def changed(path: str, value: Any) -> dict[str, Any]:
    """The recipe quick with a field set by its dotted path; ``...`` takes it out."""
    values = copy.deepcopy(read_recipe("train", "quick"))
    *tables, name = path.split(".")
    inner = values
    for table in tables:
        inner = inner[table]
    if value is ...:
        del inner[name]
    else:
        inner[name] = value
    return values


@pytest.mark.parametrize(
    "path, value, message",
    [
        ("seed", ..., "train recipe, top level: missing field; got seed"),
        ("lora", ..., "train recipe, top level: missing field; got lora"),
        ("lora.alpha", 1, "train recipe, [lora]: unknown field; got alpha"),
        ("optimizer.batch_tiles", ..., "[optimizer]: missing field; got batch_tiles"),
        ("lora", 3, "train recipe, [lora]: not a table; got 3"),
        ("seed", 1.5, "top level, seed: not of type int; got 1.5"),
        ("keep_known", 1, "top level, keep_known: not of type bool; got 1"),
        ("least_width_px", -1.0, "LoraRecipe.least_width_px: out of range; got -1.0"),
        ("seed", -1, "LoraRecipe.seed: out of range; got -1"),
        ("lora.rank", 0, "LoraOptions.rank: out of range; got 0"),
        ("lora.dropout", 1.0, "LoraOptions.dropout: out of range; got 1.0"),
        ("lora.dropout", float("nan"), "[lora], dropout: not finite; got nan"),
        ("optimizer.learning_rate", 0, "LoraOptimizer.learning_rate: out of range; got 0"),
        ("optimizer.weight_decay", -1.0, "LoraOptimizer.weight_decay: out of range"),
        ("optimizer.rising_share", 1.0, "LoraOptimizer.rising_share: out of range"),
        ("optimizer.batch_tiles", 0, "LoraOptimizer.batch_tiles: out of range"),
        ("optimizer.heads_share", 1.5, "LoraOptimizer.heads_share: out of range; got 1.5"),
        ("optimizer.batches_per_step", True, "batches_per_step: not of type int; got True"),
        ("schedule.epochs", 0, "Schedule.epochs: out of range"),
        ("schedule.few_images", -1, "Schedule.few_images: out of range"),
        ("early_stop.corner_share", 0.6, "EarlyStop.corner_share: out of range; got 0.6"),
        ("early_stop.patience", 0, "EarlyStop.patience: out of range"),
        ("data.tile_size", 3, "train recipe, [data]: unknown field; got tile_size"),
        ("data.scale", [2.0, 1.0], "scale: out of range; got (2.0, 1.0)"),
    ],
)
def test_what_is_refused(path: str, value: Any, message: str):
    with pytest.raises(ConfigError) as caught:
        LoraRecipe.from_dict(changed(path, value))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
