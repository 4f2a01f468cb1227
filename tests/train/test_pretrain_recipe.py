"""Pretraining recipes: the schedule, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cellseg1_rt.backbone import Backbone
from cellseg1_rt.errors import ConfigError
from cellseg1_rt.recipes import read_recipe
from cellseg1_rt.train.pretrain_recipe import PretrainRecipe, Stage


def shipped() -> PretrainRecipe:
    return PretrainRecipe.from_dict(read_recipe("train", "tiny"))


def schedule() -> PretrainRecipe:
    recipe = shipped()
    return replace(
        recipe,
        optimizer=replace(recipe.optimizer, learning_rate=0.3, warmup_steps=10, decay_share=0.4),
        stages=(Stage(48, 20, 1, 5, 0.5), Stage(64, 30, 1, 5, 0.5)),
    )


@pytest.mark.parametrize(
    "step, share",
    [
        pytest.param(0, 1 / 10, id="first"),
        pytest.param(4, 5 / 10, id="half-way-up"),
        pytest.param(9, 1, id="warm"),
        pytest.param(20, 1, id="second-stage"),
        pytest.param(30, 1, id="last-constant"),
        pytest.param(31, 19 / 20, id="falling"),
        pytest.param(40, 10 / 20, id="half-way-down"),
        pytest.param(49, 1 / 20, id="last"),
        pytest.param(50, 0, id="end"),
    ],
)
def test_learning_rate(step: int, share: float):
    assert schedule().learning_rate_at(step) == pytest.approx(0.3 * share)


@pytest.mark.parametrize("step, window", [(0, 48), (19, 48), (20, 64), (49, 64), (50, 64)])
def test_stage_at(step: int, window: int):
    assert schedule().stage_at(step).window_px == window
    assert schedule().total_steps == 50


def test_the_shipped_recipe_is_whole():
    recipe = shipped()
    exported = read_recipe("export", recipe.backbone)
    assert Backbone.from_dict(exported["backbone"]).name == recipe.backbone
    assert recipe.image_size == exported["image_size"]
    assert recipe.stages[-1].window_px == recipe.image_size


def test_a_recipe_tells_itself_apart():
    recipe = shipped()
    assert PretrainRecipe.from_dict(recipe.to_dict()) == recipe
    assert replace(recipe, seed=1).to_dict() != recipe.to_dict()


def changed(values: dict[str, Any], path: str, value: Any) -> None:
    """Set a field by its dotted path; ``...`` takes it out."""
    *tables, name = path.split(".")
    for table in tables:
        values = values[int(table)] if table.isdigit() else values[table]
    if value is ...:
        del values[name]
    else:
        values[name] = value


@pytest.mark.parametrize(
    "path, value, message",
    [
        ("seed", ..., "pretrain recipe, top level: missing field; got seed"),
        ("loss", ..., "missing field; got loss"),
        ("stages.1.steps", ..., "pretrain recipe, [[stages]] 2: missing field; got steps"),
        ("optimizer.clip_norm", ..., "[optimizer]: missing field; got clip_norm"),
        ("epochs", 3, "unknown field; got epochs"),
        ("loss.lovasz", 1.0, "pretrain recipe, [loss]: unknown field; got lovasz"),
        ("seed", 1.5, "top level, seed: not of type int; got 1.5"),
        ("seed", True, "seed: not of type int; got True"),
        ("loss.dice", "much", "[loss], dice: not of type float; got 'much'"),
        ("loss", 3, "pretrain recipe, [loss]: not a table; got 3"),
        ("stages", 3, "stages: not a list of tables; got 3"),
        ("stages", [], "PretrainRecipe.stages: out of range; got ()"),
        ("loss.dice", float("nan"), "dice: not finite; got nan"),
        ("loss.focal", -1.0, "LossWeights.focal: out of range; got -1.0"),
        ("optimizer.warmup_steps", 0, "Optimizer.warmup_steps: out of range; got 0"),
        ("optimizer.decay_share", 0.0, "Optimizer.decay_share: out of range"),
        ("optimizer.clip_norm", 0.0, "Optimizer.clip_norm: out of range"),
        ("optimizer.beta2", 1.0, "Optimizer.beta2: out of range"),
        ("optimizer.learning_rate", -1e-4, "Optimizer.learning_rate: out of range"),
        ("average_decay", 1.0, "PretrainRecipe.average_decay: out of range"),
        ("validate_every", 0, "PretrainRecipe.validate_every: out of range"),
        ("held_out_images", -1, "PretrainRecipe.held_out_images: out of range"),
        ("stages.0.window_px", 40, "Stage.window_px: out of range; got 40"),
        ("stages.0.window_px", 32, "expected a multiple of 16 from 48 on"),
        ("stages.0.synthetic_share", 1.1, "Stage.synthetic_share: out of range"),
        ("stages.1.points_per_image", 0, "Stage.points_per_image: out of range"),
        ("image_size", 256, "no smaller than the largest window (512)"),
    ],
)
def test_what_is_refused_is_named(path: str, value: Any, message: str):
    values = read_recipe("train", "tiny")
    changed(values, path, value)
    with pytest.raises(ConfigError) as caught:
        PretrainRecipe.from_dict(values)
    assert message in str(caught.value)
    assert str(caught.value).startswith(("pretrain recipe, ", "recipe, "))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["published", "quick"])
def test_a_recipe_for_train_is_refused_by_name(name: str):
    with pytest.raises(ConfigError, match=r"a recipe for train, not for pretrain"):
        PretrainRecipe.from_dict(read_recipe("train", name))
