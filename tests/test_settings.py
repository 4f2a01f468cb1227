"""Settings and recipes: what is taken, and what is said of the rest."""

from __future__ import annotations

import math

import pytest

from cellseg1_rt.backbone import Backbone
from cellseg1_rt.errors import ConfigError
from cellseg1_rt.recipes import read_recipe
from cellseg1_rt.settings import InferenceSettings


def test_defaults_are_the_published_ones():
    assert InferenceSettings().to_dict() == {
        "points_per_side": 32,
        "crops": 0,
        "score": 0.8,
        "stability": 0.6,
        "stability_offset": 0.8,
        "crop_nms": 0.05,
        "box_nms": 0.05,
        "min_area": 20,
        "max_area_ratio": 0.1,
    }


BAD = {
    "above": ({"score": 1.01}, "setting 'score': out of range; got 1.01; expected 0.0 to 1.0"),
    "below": ({"stability": -0.1}, "'stability': out of range"),
    "not a number": ({"score": "high"}, "'score': not a number of the right kind; got 'high'"),
    "NaN": ({"crop_nms": math.nan}, "'crop_nms': out of range; got nan"),
    "half a point": ({"points_per_side": 7.5}, "'points_per_side'"),
    "a truth": ({"crops": True}, "'crops': not a number of the right kind; got True"),
    "unknown": ({"colour": 1}, "colour: unknown setting"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_settings(name):
    values, says = BAD[name]
    with pytest.raises(ConfigError) as caught:
        InferenceSettings.from_dict(values)
    assert says in str(caught.value)


def test_updated_leaves_none_alone():
    settings = InferenceSettings(score=0.5).updated(score=None, stability=0.7)
    assert (settings.score, settings.stability) == (0.5, 0.7)


BAD_BACKBONES = {
    "missing": ({"depth": None}, "backbone: fields do not fit"),
    "zero": ({"depth": 0}, "backbone.depth: not a positive integer"),
    "heads": ({"num_heads": 5}, "5 heads for 48 channels"),
    "global": ({"global_attn_indexes": [9]}, "expected indexes below 3"),
    "no list": ({"global_attn_indexes": 1}, "backbone.global_attn_indexes: not a list"),
}


@pytest.mark.parametrize("name", BAD_BACKBONES)
def test_bad_backbones(name):
    change, says = BAD_BACKBONES[name]
    values = {**Backbone("small", 48, 3, 3, (1,), 5).to_dict(), **change}
    values = {key: value for key, value in values.items() if value is not None}
    with pytest.raises(ConfigError) as caught:
        Backbone.from_dict(values)
    assert says in str(caught.value)


def test_recipes_by_name_and_by_file(tmp_path):
    assert read_recipe("export", "vit_h")["backbone"]["embed_dim"] == 1280
    mine = tmp_path / "mine.toml"
    mine.write_text("a = 1\n")
    assert read_recipe("export", mine) == {"a": 1}
    with pytest.raises(ConfigError, match="nonesuch: no such export recipe; expected one of tiny"):
        read_recipe("export", "nonesuch")
    mine.write_text("a = = 1")
    with pytest.raises(ConfigError, match="export recipe cannot be read"):
        read_recipe("export", mine)
