"""A bundle's check: what it holds, what passes it, and what does not."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest

from cellseg1_rt.backends.first_load import run_check
from cellseg1_rt.check import (
    CheckInputs,
    Outputs,
    check_inputs,
    deviations_of,
    read_check,
    require_agreement,
    sampled,
    write_check,
)
from cellseg1_rt.contract import CHECK_NAME, FileEntry, read_manifest
from cellseg1_rt.errors import BundleError, VerificationError

TOLERANCES = {"encoder": 0.1, "prompt_decoder": 0.02, "mask_head": 0.05}


@pytest.fixture(scope="module")
def manifest(tiny_folder):
    return read_manifest(tiny_folder)


@pytest.fixture(scope="module")
def check(tiny_folder, manifest):
    return read_check(tiny_folder, manifest)


def test_the_packaged_bundles_is_small_and_of_its_inputs(tiny_folder, check):
    assert (tiny_folder / CHECK_NAME).stat().st_size < 100_000
    made = check_inputs(512)
    for field in fields(CheckInputs):
        np.testing.assert_array_equal(
            getattr(check.inputs, field.name), getattr(made, field.name), err_msg=field.name
        )
    assert len(check.outputs.embedding) == -(-256 * 32 * 32 // 31)
    assert len(check.outputs.score) == 37
    assert len(check.outputs.logits) == -(-7 * 128 * 128 // 31)


@pytest.mark.parametrize("image_size", [16, 112, 512])
def test_inputs_are_padded_and_points_are_inside(image_size: int):
    inputs = check_inputs(image_size)
    height, width = inputs.size[0]
    assert inputs.image.shape == (1, image_size, image_size, 3)
    assert not inputs.image[:, height:].any()
    assert not inputs.image[:, :, width:].any()
    assert inputs.image[0, :height, :width].std() > 50
    assert (inputs.points >= 0).all()
    assert (inputs.points < (width, height)).all()
    assert (np.diff(inputs.index) >= 0).all()
    assert inputs.index.max() < len(inputs.points)


def test_the_packaged_graphs_pass_it(tiny, check, manifest):
    deviations = run_check(tiny.backend, check, manifest, 1024)
    require_agreement(deviations, "the CPU", "mend it")
    assert [(d.graph, d.tensor) for d in deviations] == [
        ("encoder", "embedding"),
        ("prompt_decoder", "score"),
        ("mask_head", "logits"),
    ]
    # Of another library's sums, so not the same, and well within.
    assert all(0 < d.typical <= d.relative < 0.5 * d.allowed for d in deviations)


def test_the_first_prompts_have_the_first_outputs(check):
    """11 prompts: 4 of the logits' 7, whose samples begin all samples."""
    few = check.inputs.first(11)
    assert few.index.tolist() == [0, 1, 5]
    assert len(few.points) == 11
    logits = np.arange(7 * 128 * 128).reshape(7, 128, 128)
    part = sampled(logits[: len(few.index)])
    np.testing.assert_array_equal(part, sampled(logits)[: len(part)])


def off(outputs: Outputs, tensor: str, error: np.ndarray | float, count: int) -> Outputs:
    """The same with some values of one tensor off by a share of its spread."""
    values = getattr(outputs, tensor).copy()
    values[:count] += error * values.std()
    return replace(outputs, **{tensor: values})


PASSES = {
    "one value within": ("logits", 0.09, 1),
    "all values a little": ("score", 0.004, 37),
}
REFUSED = {
    "one value of the embedding": ("embedding", 0.11, 1, "encoder", "got 1.10e-01", "1.00e-01"),
    "one score": ("score", -0.05, 1, "prompt_decoder", "got 5.00e-02", "4.00e-02"),
    "all scores a little": ("score", 0.006, 37, "prompt_decoder", "got 6.00e-03", "5.00e-03"),
    "one logit": ("logits", 0.11, 1, "mask_head", "got 1.10e-01", "1.00e-01"),
    "not a number": ("logits", float("nan"), 1, "mask_head", "got nan", "1.00e-01"),
}


@pytest.mark.parametrize("name", PASSES)
def test_within(check, name: str):
    tensor, error, count = PASSES[name]
    found = off(check.outputs, tensor, error, count)
    require_agreement(deviations_of(found, check, TOLERANCES), "a card", "mend it")


@pytest.mark.parametrize("name", REFUSED)
def test_outside(check, name: str):
    tensor, error, count, graph, got, expected = REFUSED[name]
    found = off(check.outputs, tensor, error, count)
    with pytest.raises(VerificationError) as caught:
        require_agreement(deviations_of(found, check, TOLERANCES), "a card", "mend it")
    line = str(caught.value)
    assert line.startswith(
        f"graph {graph}, tensor {tensor}: a card gives something else than the bundle was "
        f"exported with; {got} of the output's spread"
    )
    assert line.endswith(f"expected no more than {expected}. Fix: mend it")


def test_writing_and_reading(check, tmp_path, manifest):
    path = tmp_path / CHECK_NAME
    write_check(path, check)
    once = path.read_bytes()
    again = read_check(tmp_path, manifest)
    for part in ("inputs", "outputs"):
        for field in fields(getattr(check, part)):
            np.testing.assert_array_equal(
                getattr(getattr(again, part), field.name),
                getattr(getattr(check, part), field.name),
            )
    write_check(path, again)
    assert path.read_bytes() == once


def test_a_bundle_of_an_earlier_version_has_none(tiny_folder, manifest):
    files = {name: entry for name, entry in manifest.files.items() if name != CHECK_NAME}
    assert read_check(tiny_folder, replace(manifest, files=files)) is None


DAMAGED = {
    "no archive": b"none",
    "another archive": None,
    "a file that is not there": False,
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_one_is_named(tmp_path, manifest, name: str):
    path = tmp_path / CHECK_NAME
    if DAMAGED[name] is None:
        with path.open("wb") as file:
            np.savez(file, image=np.zeros(3))
    elif DAMAGED[name]:
        path.write_bytes(DAMAGED[name])
    listed = replace(manifest, files={CHECK_NAME: FileEntry("0" * 64, 4)})
    with pytest.raises(BundleError, match=r"check\.npz: the bundle's check cannot be read; got"):
        read_check(tmp_path, listed)
