"""Settings of the samples of LoRA training: the published defaults, and what is refused."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from cellseg1_rt.errors import ConfigError
from cellseg1_rt.train.lora_samples import SampleSettings


def test_the_defaults_are_the_published_numbers():
    assert asdict(SampleSettings()) == {
        "image_size": 512,
        "windows": "tiles",
        "tile_px": 256,
        "smallest_set": 32,
        "most_cells": 30,
        "smallest_cell_px": 100,
        "edge_band_px": 20,
        "core_share": 0.2,
        "background_per_cell": 0.5,
        "most_background": 30,
        "background_px": 1000,
        "densest": 5.0,
        "jitter": 0.1,
        "jitter_share": 0.5,
        "flip_share": 0.75,
        "crop_share": 0.5,
        "crop_scale": (0.3, 1.0),
        "crop_ratio": (0.75, 1.33),
        "affine_share": 0.8,
        "shift": 0.0625,
        "scale": (0.5, 1.5),
        "rotate_deg": 45.0,
    }


def test_lists_of_a_toml_file_become_tuples():
    settings = SampleSettings(scale=[0.9, 1.1])  # type: ignore[arg-type]
    assert settings.scale == (0.9, 1.1)
    assert hash(settings) == hash(SampleSettings(scale=(0.9, 1.1)))


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("image_size", 500, "out of range; got 500; expected a multiple of 16"),
        ("image_size", 0, "out of range; got 0"),
        ("image_size", 512.0, "of the wrong kind; got 512.0; expected a whole number"),
        ("windows", "boxes", "out of range; got boxes; expected tiles or crops"),
        ("windows", 3, "out of range; got 3; expected tiles or crops"),
        ("tile_px", 0, "expected a whole number from 1 on"),
        ("smallest_set", -1, "expected a number from 0 on"),
        ("most_cells", True, "of the wrong kind; got True; expected a whole number"),
        ("core_share", 0.0, "out of range; got 0.0; expected a share in (0, 1]"),
        ("background_px", 0, "out of range; got 0"),
        ("densest", -0.1, "out of range; got -0.1"),
        ("densest", float("nan"), "of the wrong kind; got nan; expected a number"),
        ("jitter", 1.1, "expected a share in [0, 1]"),
        ("flip_share", "often", "of the wrong kind; got 'often'; expected a number"),
        ("crop_scale", (0.0, 1.0), "got (0.0, 1.0); expected 0 < lowest <= highest <= 1"),
        ("crop_scale", (0.5, 1.1), "out of range"),
        ("crop_ratio", (1.2, 0.8), "out of range"),
        ("scale", (0.5,), "of the wrong kind; got (0.5,); expected two numbers"),
        ("scale", 0.5, "of the wrong kind; got 0.5; expected two numbers"),
        ("scale", (0.5, float("inf")), "of the wrong kind"),
        ("rotate_deg", 181.0, "out of range; got 181.0; expected degrees in [0, 180]"),
    ],
)
def test_what_is_refused_is_named(name: str, value: Any, message: str):
    with pytest.raises(ConfigError) as caught:
        SampleSettings(**{name: value})
    assert str(caught.value).startswith(f"sampling, {name}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
