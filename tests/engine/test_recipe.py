"""Engine recipes: those that ship, what the command line changes, and what is refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from cellseg1_rt.engine.recipe import Card, EngineRecipe
from cellseg1_rt.engine_files import Span
from cellseg1_rt.errors import ConfigError
from cellseg1_rt.recipes import read_recipe, recipe_names

SHIPPED = {
    "rtx20": ("tensorrt-rtx", ("sm_75",), ("fp16",)),
    "rtx30": ("tensorrt-rtx", ("sm_86",), ("fp16", "bf16", "fp32")),
    "rtx40": ("tensorrt-rtx", ("sm_89",), ("fp16", "bf16", "fp32")),
    "rtx50": ("tensorrt-rtx", ("sm_120",), ("fp16", "bf16", "fp32")),
    "datacenter": ("tensorrt", (), ("fp16", "bf16", "fp32")),
}


def shipped(name: str) -> EngineRecipe:
    return EngineRecipe.from_dict(read_recipe("engine", name))


def test_every_family_has_a_recipe_and_each_is_sound():
    assert set(recipe_names("engine")) == set(SHIPPED)
    for name, expected in SHIPPED.items():
        recipe = shipped(name)
        assert (recipe.flavor, recipe.targets, recipe.precisions) == expected


def test_a_graph_has_the_spans_of_its_own_axes():
    recipe = shipped("rtx40")
    spans = recipe.profile
    assert recipe.profile_of("encoder") == {"B": spans["B"]}
    assert recipe.profile_of("prompt_decoder") == {"N": spans["N"]}
    assert recipe.profile_of("mask_head") == {"N": spans["N"], "M": spans["M"]}


def test_what_the_command_line_changes():
    recipe = shipped("rtx40")
    assert recipe.updated() == recipe
    changed = recipe.updated(prompt_batch=1024, card_gbytes=12.0, targets=("sm_120",))
    assert changed.profile["N"] == Span(1, 1024, 1024)
    assert changed.profile["M"] == recipe.profile["M"]
    assert changed.card == Card(12.0, recipe.card.budget_share)
    assert changed.targets == ("sm_120",)
    assert changed.card.budget_bytes == 6 * 10**9


def test_a_small_prompt_batch_bounds_the_masks():
    profile = shipped("rtx40").updated(prompt_batch=7).profile
    assert profile["N"] == Span(1, 7, 7)
    assert profile["M"] == Span(1, 7, 7)


def test_tensorrt_takes_the_card_that_is_there():
    assert shipped("rtx40").updated(flavor="tensorrt").targets == ()
    assert shipped("rtx40").updated(flavor="tensorrt", targets=("sm_90",)).targets == ("sm_90",)
    assert shipped("rtx40").updated(flavor="tensorrt-rtx").targets == ("sm_89",)
    with pytest.raises(ConfigError, match="targets: cannot be followed; got none"):
        shipped("datacenter").updated(flavor="tensorrt-rtx")


def test_turing_is_only_for_fp16():
    shipped("rtx20").require_precision("fp16")
    for precision in ("fp32", "bf16"):
        with pytest.raises(ConfigError, match=f"got {precision}; expected fp16. Fix: export the"):
            shipped("rtx20").require_precision(precision)


def changed(path: str, value: Any) -> dict[str, Any]:
    """The recipe rtx40 with a key set by its dotted path; ``...`` takes it out."""
    values = copy.deepcopy(read_recipe("engine", "rtx40"))
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
        ("flavor", ..., "engine recipe, top level: missing key; got flavor"),
        ("profile", ..., "top level: missing key; got profile"),
        ("prompt_batch", 7, "top level: unknown key; got prompt_batch; expected flavor, targets"),
        ("profile.points", {}, "[profile]: unknown key; got points; expected images, prompts"),
        ("profile.masks", ..., "[profile]: missing key; got masks"),
        ("profile.masks", 3, "[profile] masks: cannot be followed; got 3; expected a table"),
        ("profile.prompts.best", 7, "[profile] prompts: unknown key; got best"),
        ("profile.prompts.min", 0, "prompts: cannot be followed; got min 0, opt 512, max 512"),
        ("profile.prompts.min", 513, "got min 513, opt 512, max 512; expected 1 ≤ min ≤ opt ≤ max"),
        ("profile.prompts.opt", 513, "got min 1, opt 513, max 512"),
        ("profile.prompts.max", 5.5, "expected whole numbers"),
        ("profile.prompts.max", True, "expected whole numbers"),
        ("profile.masks.max", 513, "profile.masks: cannot be followed; got max 513; expected at"),
        ("flavor", "tensorrt-lean", "expected one of tensorrt-rtx, tensorrt"),
        ("flavor", 3, "flavor: cannot be followed; got 3; expected a value of type str"),
        ("targets", [], "targets: cannot be followed; got none"),
        ("targets", ["SM89"], "got 'SM89'; expected compute capabilities such as sm_89"),
        ("targets", [89], "got 89; expected compute capabilities such as sm_89"),
        ("targets", ["sm_89", "sm_89"], "expected each one once"),
        ("precisions", [], "precisions: cannot be followed; got none"),
        ("precisions", ["int8"], "got 'int8'; expected one of fp32, fp16, bf16"),
        ("card.memory_gbytes", 0, "[card] memory_gbytes: cannot be followed; got 0"),
        ("card.memory_gbytes", "8 GB", "got '8 GB'; expected a number"),
        ("card.memory_gbytes", float("nan"), "got nan; expected a number above 0"),
        ("card.budget_share", 1.1, "expected a share up to 1"),
        ("card.budget_share", ..., "[card]: missing key; got budget_share"),
        ("workspace_mbytes", -1, "workspace_mbytes: cannot be followed; got -1"),
        ("workspace_mbytes", True, "got True; expected a value of type int"),
        ("version_compatible", True, "tensorrt-rtx has no lean runtime"),
        ("hardware_compatibility", "all", "expected one of none, ampere_plus"),
        ("hardware_compatibility", "ampere_plus", "takes several targets instead"),
    ],
)
def test_what_is_refused(path: str, value: Any, message: str):
    with pytest.raises(ConfigError) as caught:
        EngineRecipe.from_dict(changed(path, value))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_tensorrt_builds_for_one_card():
    values = {**read_recipe("engine", "datacenter"), "targets": ["sm_80", "sm_90"]}
    with pytest.raises(ConfigError, match="one at most: tensorrt builds on the card"):
        EngineRecipe.from_dict(values)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"prompt_batch": 0}, "--prompt-batch: out of range; got 0"),
        ({"card_gbytes": -1.0}, "memory_gbytes: cannot be followed; got -1.0"),
        ({"targets": ("89",)}, "targets: cannot be followed; got '89'"),
        ({"flavor": "onnx"}, "flavor: cannot be followed; got 'onnx'"),
    ],
)
def test_what_the_command_line_cannot_ask_for(change: dict[str, Any], message: str):
    with pytest.raises(ConfigError) as caught:
        shipped("rtx40").updated(**change)
    assert message in str(caught.value)
