"""A SAM in PyTorch as a runtime: the same labels, from the same weights."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

import cellseg1_rt
from cellseg1_rt.contract import WEIGHTS_NAME
from cellseg1_rt.evaluate import average_precision
from cellseg1_rt.model.lora import add_lora
from cellseg1_rt.model.precision import in_precision
from cellseg1_rt.model.torch_backend import TorchBackend
from cellseg1_rt.model.weights import load_sam
from cellseg1_rt.runtime.normalise import rgb_from_pixels
from cellseg1_rt.runtime.pipeline import segment_rgb

POINTS = 13
FLOORS = {"score": 0.3, "stability": 0.0}


@pytest.fixture(scope="module")
def small(tiny):
    """The packaged bundle with few points and low thresholds, so that there are many cells."""
    model = copy.copy(tiny)
    model.settings = tiny.settings.updated(points_per_side=POINTS, **FLOORS)
    return model


@pytest.fixture
def sam(tiny):
    manifest = tiny.manifest
    return load_sam(tiny.bundle / WEIGHTS_NAME, manifest.backbone, manifest.image_size).eval()


def labels_of(model, backend, pixels, **settings):
    """Labels [H, W] of a model whose graphs something else computes."""
    model = copy.copy(model)
    model.backend, model.settings = backend, model.settings.updated(**settings)
    return model.segment(pixels).labels


@pytest.mark.parametrize("crops", [0, 1])
def test_labels_are_those_of_the_graphs(small, sam, sample, crops):
    pixels = cellseg1_rt.read_image(sample).pixels
    expected = labels_of(small, small.backend, pixels, crops=crops)
    found = labels_of(small, TorchBackend(sam), pixels, crops=crops)
    assert expected.max() > 3
    np.testing.assert_array_equal(found, expected)


def test_labels_do_not_depend_on_how_many_prompts_are_decoded_at_once(small, sam, sample):
    rgb = rgb_from_pixels(cellseg1_rt.read_image(sample).pixels)
    backend = TorchBackend(sam)
    assert backend.prompts_at_once < POINTS**2
    few = segment_rgb(rgb, backend, small.settings, backend.prompts_at_once)
    all_of_them = segment_rgb(rgb, backend, small.settings, POINTS**2)
    assert few.labels.max() > 3
    np.testing.assert_array_equal(few.labels, all_of_them.labels)


def test_a_lora_that_is_zero_changes_nothing(small, sam, sample):
    pixels = cellseg1_rt.read_image(sample).pixels[:191, :211]
    before = labels_of(small, TorchBackend(sam), pixels)
    with_lora = add_lora(sam, rank=2).eval()
    assert before.max() > 1
    np.testing.assert_array_equal(labels_of(small, TorchBackend(with_lora), pixels), before)


@pytest.mark.parametrize(
    "precision, least",
    [pytest.param("fp16", 0.97, marks=pytest.mark.slow), ("bf16", 0.85)],  # fp16 crawls on a CPU
)
def test_lower_precisions_change_little(small, sam, sample, precision, least):
    """What is kept and what differs is measured whole by ``benchmarks/precision.py``."""
    pixels = cellseg1_rt.read_image(sample).pixels
    expected = labels_of(small, TorchBackend(sam), pixels)
    backend = TorchBackend(in_precision(sam, precision))
    (embedding,) = backend.encode(
        np.zeros((1, 512, 512, 3), np.uint8), np.array([[512, 512]], np.int32)
    )
    assert embedding.dtype != torch.float32
    assert average_precision(labels_of(small, backend, pixels), expected) >= least
