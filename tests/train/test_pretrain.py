"""The pretraining loop: resuming, log, average, and what stops it."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from cellseg1_rt.backbone import Backbone
from cellseg1_rt.errors import WeightsError
from cellseg1_rt.model.initialise import initialise
from cellseg1_rt.model.sam import build_sam
from cellseg1_rt.train import pretrain as module
from cellseg1_rt.train.pretrain import pretrain
from cellseg1_rt.train.pretrain_data import Pair
from cellseg1_rt.train.pretrain_recipe import LossWeights, Optimizer, PretrainRecipe, Stage

SMALL = Backbone("small", 48, 3, 3, (1,), 5)
OPTIMIZER = Optimizer(
    learning_rate=1e-3,
    weight_decay=0.02,
    beta1=0.9,
    beta2=0.98,
    warmup_steps=3,
    decay_share=0.5,
    clip_norm=1.0,
)
RECIPE = PretrainRecipe(
    backbone="small",
    image_size=64,
    seed=5,
    held_out_images=1,
    validate_every=1,
    checkpoint_every=100,
    average_decay=0.9,
    optimizer=OPTIMIZER,
    loss=LossWeights(focal=20, focal_gamma=2, dice=1, neighbours=1, quality=0.4, score=2, dense=1),
    stages=(Stage(48, 3, 2, 5, 0.5), Stage(64, 4, 1, 7, 0.3)),
)
WINDOW_GROWS_AT = 3


class PowerCut(Exception):
    """What ends a run in the middle."""


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    for checkpoint in tmp_path.rglob("*.pt"):  # 74 MB each
        checkpoint.unlink()


def pair(seed: int) -> Pair:
    """Three bright disks in a picture of 47×59 px."""
    labels = np.zeros((47, 59), np.int32)
    for label, centre in enumerate(((13, 11), (41, 17), (23, 34)), start=1):
        cv2.circle(labels, centre, 7 + seed % 3, label, -1)
    noise = np.random.default_rng(seed).integers(0, 40, labels.shape)
    grey = (np.where(labels > 0, 180, 30) + noise).astype(np.uint8)
    return Pair(f"p{seed}", f"{seed:064x}", np.repeat(grey[..., None], 3, axis=2), labels)


def run(recipe: PretrainRecipe, work: Path, **options: Any) -> dict[str, Tensor]:
    work.mkdir(exist_ok=True)
    return pretrain(recipe, SMALL, [pair(2), pair(3)], [pair(7)], work, **options)


def cut_at(step: int) -> Callable[[dict[str, float]], None]:
    def report(figures: dict[str, float]) -> None:
        if figures["step"] == step:
            raise PowerCut

    return report


def refuse(constant: str) -> float:
    raise AssertionError(f"{constant} in the log")


def read_log(work: Path) -> list[dict[str, float]]:
    lines = (work / "log.jsonl").read_text().splitlines()
    return [json.loads(line, parse_constant=refuse) for line in lines]


def figures_by_step(work: Path) -> dict[float, dict[str, float]]:
    """What the log says of every step, without the time it took."""
    return {
        line["step"]: {name: value for name, value in line.items() if name != "seconds"}
        for line in read_log(work)
    }


def read_checkpoint(work: Path) -> dict[str, Any]:
    return torch.load(work / "checkpoint.pt", weights_only=True)


def require_equal(one: Any, other: Any, where: str = "") -> None:
    """The same values to the last bit, through any nesting."""
    assert type(one) is type(other), where
    if isinstance(one, Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            require_equal(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for index, (a, b) in enumerate(zip(one, other, strict=True)):
            require_equal(a, b, f"{where}[{index}]")
    else:
        assert one == other, where


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, Tensor], Path]]:
    """An uninterrupted run: its weights and its work folder."""
    folder = tmp_path_factory.mktemp("whole")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield run(RECIPE, folder), folder
    torch.set_num_threads(threads)
    (folder / "checkpoint.pt").unlink()


@pytest.mark.parametrize(
    "kept",
    [
        pytest.param(2, id="in-the-first-stage"),
        pytest.param(WINDOW_GROWS_AT, id="where-the-window-grows"),
        pytest.param(5, id="in-the-second-stage"),
    ],
)
def test_resumed_is_bit_equal(whole: tuple[dict[str, Tensor], Path], work: Path, kept: int):
    expected, folder = whole
    recipe = replace(RECIPE, checkpoint_every=kept)
    with pytest.raises(PowerCut):
        run(recipe, work, report=cut_at(kept + 1))
    assert read_checkpoint(work)["step"] == kept
    require_equal(run(recipe, work), expected)
    found, whole_run = read_checkpoint(work), read_checkpoint(folder)
    assert found.pop("identity") != whole_run.pop("identity")  # another checkpoint_every
    require_equal(found, whole_run)
    assert figures_by_step(work) == figures_by_step(folder)


def test_steps_that_are_made_again_are_logged_once(work: Path):
    """The log of a run cut between two checkpoints goes on where the checkpoint is."""
    recipe = replace(RECIPE, checkpoint_every=3)
    with pytest.raises(PowerCut):
        run(recipe, work, report=cut_at(5))
    assert [line["step"] for line in read_log(work)] == [1, 2, 3, 4, 5]
    run(recipe, work)
    lines = read_log(work)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6, 7]
    seconds = [line["seconds"] for line in lines]
    assert seconds == sorted(seconds)


def test_result_is_the_average_with_calibrated_masks_and_score(
    work: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "score_scale", lambda *_: 0.7)
    reported: list[dict[str, float]] = []
    weights = run(RECIPE, work, report=reported.append)
    assert reported[-1].keys() == {"step", "mask_logit_scale", "score_scale"}
    scale, score = reported[-1]["mask_logit_scale"], 0.7
    assert abs(scale - 1) > 0.01
    assert all(values.dtype == torch.float32 for values in weights.values())
    checkpoint = read_checkpoint(work)
    assert checkpoint["sam"].keys() == weights.keys() == checkpoint["average"].keys()
    masks = "mask_decoder.output_hypernetworks_mlps.0.layers.2"
    scores = "mask_decoder.iou_prediction_head.layers.2"
    for name, values in checkpoint["average"].items():
        factor = {masks: scale, scores: score}.get(name.rpartition(".")[0], 1.0)
        raised = 1 - score if name == f"{scores}.bias" else 0.0
        torch.testing.assert_close(weights[name], values * factor + raised)
    assert any(not torch.equal(weights[name], checkpoint["sam"][name]) for name in weights)


def test_masks_are_not_scaled_without_held_out_pairs(work: Path):
    recipe = replace(RECIPE, stages=(Stage(48, 1, 1, 5, 1.0),))
    weights = pretrain(recipe, SMALL, [pair(2)], [], work)
    require_equal(weights, dict(read_checkpoint(work)["average"]))


def test_a_finished_run_is_not_trained_further(whole: tuple[dict[str, Tensor], Path], work: Path):
    expected, folder = whole
    shutil.copy(folder / "checkpoint.pt", work)
    require_equal(run(RECIPE, work), expected)
    assert not (work / "log.jsonl").read_text()


def test_another_seed_is_another_run(whole: tuple[dict[str, Tensor], Path], work: Path):
    expected, _ = whole
    other = run(replace(RECIPE, seed=6), work)
    changed = [name for name in expected if not torch.equal(other[name], expected[name])]
    assert len(changed) > 100


def test_log(whole: tuple[dict[str, Tensor], Path]):
    _, folder = whole
    lines = read_log(folder)
    assert [line["step"] for line in lines] == list(range(1, 8))
    seconds = [line["seconds"] for line in lines]
    assert seconds == sorted(seconds)
    for line in lines:
        assert all(math.isfinite(value) for value in line.values())
        assert 0 <= line["validation_iou"] <= 1
        assert 0 <= line["validation_score_accuracy"] <= 1


@pytest.mark.parametrize(
    "validate_every, validation, expected",
    [(3, [pair(7)], [3, 6, 7]), (100, [pair(7)], [7]), (2, [], [])],
    ids=["every-3", "at-the-end", "nothing-held-out"],
)
def test_when_it_validates(work: Path, validate_every: int, validation: list, expected: list):
    recipe = replace(RECIPE, validate_every=validate_every)
    reported: list[dict[str, float]] = []
    pretrain(recipe, SMALL, [pair(2)], validation, work, report=reported.append)
    *figures_of_steps, calibration = reported
    assert [figures["step"] for figures in figures_of_steps] == expected
    assert all("validation_iou" in figures for figures in figures_of_steps)
    assert read_log(work) == figures_of_steps
    assert (calibration["mask_logit_scale"] != 1) == bool(validation)


def test_one_step_of_the_average(work: Path):
    """After step 0 nine tenths of the new weights count, whatever ``average_decay`` is."""
    recipe = replace(RECIPE, average_decay=0.998, stages=(Stage(48, 1, 1, 5, 1.0),))
    run(recipe, work)
    average = read_checkpoint(work)["average"]
    torch.manual_seed(recipe.seed)
    start = initialise(build_sam(SMALL, 64)).state_dict()
    trained = read_checkpoint(work)["sam"]
    for name, values in average.items():
        torch.testing.assert_close(values, start[name].lerp(trained[name], 0.9))
    assert not torch.equal(
        start["mask_decoder.mask_tokens.weight"], average["mask_decoder.mask_tokens.weight"]
    )


def test_a_larger_window_draws_nothing_anew(work: Path):
    """At rate zero all stages leave the model where it was: it has its full size throughout."""
    recipe = replace(
        RECIPE,
        optimizer=replace(OPTIMIZER, learning_rate=0.0),
        stages=(Stage(48, 1, 1, 5, 1.0), Stage(64, 1, 1, 5, 1.0)),
    )
    run(recipe, work)
    torch.manual_seed(recipe.seed)
    start = initialise(build_sam(SMALL, 64)).state_dict()
    torch.testing.assert_close(dict(read_checkpoint(work)["average"]), dict(start))
    torch.testing.assert_close(dict(read_checkpoint(work)["sam"]), dict(start))


def test_training_goes_on_from_given_weights(whole: tuple[dict[str, Tensor], Path], work: Path):
    """At rate zero they stay as they are; and a checkpoint of other weights is refused."""
    start, _ = whole
    still = replace(
        RECIPE,
        optimizer=replace(OPTIMIZER, learning_rate=0.0),
        stages=(Stage(48, 1, 1, 5, 1.0),),
    )
    run(still, work, start=start)
    checkpoint = read_checkpoint(work)
    torch.testing.assert_close(dict(checkpoint["sam"]), start)
    torch.testing.assert_close(dict(checkpoint["average"]), start)
    other = start | {"mask_decoder.mask_tokens.weight": torch.ones(4, 256)}
    for wrong in (None, other):
        with pytest.raises(WeightsError, match=r"checkpoint is of another run; got weights\.start"):
            run(still, work, start=wrong)
    run(still, work, start=start)


def test_rate_and_decay_reach_the_optimizer(whole: tuple[dict[str, Tensor], Path]):
    _, folder = whole
    matrices, vectors = read_checkpoint(folder)["optimizer"]["param_groups"]
    assert matrices["lr"] == vectors["lr"] == RECIPE.learning_rate_at(6) == pytest.approx(2.5e-4)
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.02, 0.0)


def test_loss_goes_down_and_the_log_resumes(work: Path, monkeypatch: pytest.MonkeyPatch):
    """On real pictures of one kind; the second half again from the checkpoint between them."""
    optimise, terms = module._optimise, []

    def recorded(*arguments: Any) -> dict[str, float]:
        terms.append(optimise(*arguments))
        return terms[-1]

    monkeypatch.setattr(module, "_optimise", recorded)
    recipe = replace(
        RECIPE,
        validate_every=51,
        checkpoint_every=50,
        stages=(Stage(48, 100, 1, 7, 0.0),),
    )
    halfway = work / "halfway"
    halfway.mkdir()

    def keep(figures: dict[str, float]) -> None:
        if figures["step"] == 51:
            shutil.copy(work / "checkpoint.pt", halfway)

    weights = run(recipe, work, report=keep)
    figures = figures_by_step(work)
    assert sorted(figures) == [50, 51, 100]
    for name in ("mask", "score", "dense"):
        for step in (50, 100):
            expected = np.mean([found[name] for found in terms[step - 50 : step]])
            assert figures[step][name] == pytest.approx(expected)
    for name in ("mask", "dense"):
        assert figures[100][name] < 0.9 * figures[50][name]
    require_equal(run(recipe, halfway), weights)
    assert figures_by_step(halfway) == {51: figures[51], 100: figures[100]}


def not_a_number(loss: Tensor) -> Tensor:
    return loss * math.nan


def infinite(loss: Tensor) -> Tensor:
    return loss * math.inf


def infinite_slope(loss: Tensor) -> Tensor:
    return loss + (loss - loss.detach()).sqrt()


@pytest.mark.parametrize("spoil", [not_a_number, infinite, infinite_slope])
def test_a_loss_that_is_not_finite_stops_and_keeps_the_checkpoint(
    whole: tuple[dict[str, Tensor], Path],
    work: Path,
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[Tensor], Tensor],
):
    mask_loss, calls = module.mask_loss, 0

    def spoilt(*arguments: Any) -> Tensor:
        nonlocal calls
        calls += 1
        loss = mask_loss(*arguments)
        return spoil(loss) if calls == 6 else loss

    recipe = replace(RECIPE, checkpoint_every=2)
    with monkeypatch.context() as patched:
        patched.setattr(module, "mask_loss", spoilt)
        with pytest.raises(WeightsError) as caught:
            run(recipe, work)
    message = str(caught.value)
    assert message.startswith("step 5: loss or gradient is not finite; got ")
    assert "Fix: resume from the last checkpoint with a lower learning_rate" in message
    assert read_checkpoint(work)["step"] == 4
    require_equal(run(recipe, work), whole[0])


def test_a_checkpoint_of_another_recipe_is_refused_by_what_differs(work: Path):
    one_step = replace(RECIPE, stages=(Stage(48, 1, 1, 5, 1.0),))
    run(one_step, work)
    checkpoint = work / "checkpoint.pt"
    before = checkpoint.read_bytes()
    with pytest.raises(WeightsError) as caught:
        run(replace(one_step, seed=6, loss=replace(one_step.loss, dice=2)), work)
    assert str(caught.value) == (
        f"{checkpoint}: checkpoint is of another run; got recipe.seed is 5, not 6; recipe.loss is "
        "{'focal': 20, 'focal_gamma': 2, 'dice': 1, 'neighbours': 1, 'quality': 0.4, 'score': 2, "
        "'dense': 1}, not "
        "{'focal': 20, 'focal_gamma': 2, 'dice': 2, 'neighbours': 1, 'quality': 0.4, 'score': 2, "
        "'dense': 1}. "
        "Fix: remove it to start again, or use the settings it was made with"
    )
    narrow = Backbone("narrow", 26, 2, 2, (0,), 3)
    with pytest.raises(WeightsError, match=r"backbone.depth is 3, not 2") as caught:
        pretrain(one_step, narrow, [pair(2)], [], work)
    assert len(str(caught.value)) < 600
    assert checkpoint.read_bytes() == before


def not_a_dictionary(path: Path) -> None:
    torch.save(torch.zeros(3), path)


def truncated(path: Path) -> None:
    torch.save({"step": 3, "sam": {"weight": torch.zeros(101, 103)}}, path)
    path.write_bytes(path.read_bytes()[:20_011])


def incomplete(path: Path) -> None:
    identity = {
        "recipe": RECIPE.to_dict(),
        "backbone": SMALL.to_dict(),
        "weights": {"start": "random"},
    }
    torch.save({"identity": identity, "step": 3}, path)


@pytest.mark.parametrize("spoil", [not_a_dictionary, truncated, incomplete, Path.touch])
def test_a_checkpoint_that_does_not_fit_is_refused_in_one_line(
    work: Path, spoil: Callable[[Path], None]
):
    checkpoint = work / "checkpoint.pt"
    spoil(checkpoint)
    before = checkpoint.read_bytes()
    with pytest.raises(WeightsError) as caught:
        run(RECIPE, work)
    message = str(caught.value)
    assert message.startswith(f"{checkpoint}: checkpoint cannot be resumed; got ")
    assert message.endswith("Fix: remove it to start again, or use the settings it was made with")
    assert "\n" not in message
    assert checkpoint.read_bytes() == before
