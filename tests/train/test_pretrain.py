"""The pretraining loop: resuming, schedule, log, and what stops it."""

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
from cellseg1_rt.errors import ConfigError, WeightsError
from cellseg1_rt.model.initialise import initialise
from cellseg1_rt.model.sam import build_sam, resize_positions
from cellseg1_rt.recipes import read_recipe
from cellseg1_rt.train import pretrain as module
from cellseg1_rt.train.pretrain import PretrainRecipe, Stage, pretrain
from cellseg1_rt.train.pretrain_data import Pair
from cellseg1_rt.train.pretrain_loss import LossWeights

SMALL = Backbone("small", 48, 3, 3, (1,), 5)
OPTIMIZER = {
    "learning_rate": 1e-3,
    "weight_decay": 0.02,
    "warmup_steps": 3,
    "decay_share": 0.5,
    "clip_norm": 1.0,
}
RECIPE = PretrainRecipe(
    backbone="small",
    seed=5,
    held_out_images=1,
    validate_every=1,
    checkpoint_every=100,
    average_decay=0.9,
    optimizer=OPTIMIZER,
    loss=LossWeights(focal=20, focal_gamma=2, dice=1, score=2, dense=1),
    stages=(Stage(48, 3, 2, 5, 0.5), Stage(64, 4, 1, 7, 0.3)),
)
GROWS_AT = 3


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
    """The last word on every step, without the time it took."""
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
        pytest.param(GROWS_AT, id="where-the-image-grows"),
        pytest.param(5, id="in-the-second-stage"),
    ],
)
def test_resumed_is_bit_equal(whole: tuple[dict[str, Tensor], Path], work: Path, kept: int):
    expected, folder = whole
    recipe = replace(RECIPE, checkpoint_every=kept)
    with pytest.raises(PowerCut):
        run(recipe, work, report=cut_at(kept + 1))
    checkpoint = read_checkpoint(work)
    assert checkpoint["step"] == kept
    assert checkpoint["image_size"] == (48 if kept <= GROWS_AT else 64)
    require_equal(run(recipe, work), expected)
    require_equal(read_checkpoint(work), read_checkpoint(folder))
    assert figures_by_step(work) == figures_by_step(folder)


def test_result_is_the_average_at_the_last_size(whole: tuple[dict[str, Tensor], Path]):
    weights, folder = whole
    shapes = {name: values.shape for name, values in build_sam(SMALL, 64).state_dict().items()}
    assert {name: values.shape for name, values in weights.items()} == shapes
    assert all(values.dtype == torch.float32 for values in weights.values())
    checkpoint = read_checkpoint(folder)
    require_equal(weights, checkpoint["average"])
    assert any(not torch.equal(weights[name], checkpoint["sam"][name]) for name in weights)


def test_a_finished_run_is_not_trained_further(whole: tuple[dict[str, Tensor], Path], work: Path):
    expected, folder = whole
    shutil.copy(folder / "checkpoint.pt", work)
    require_equal(run(RECIPE, work), expected)
    assert read_log(work) == []


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
    assert [figures["step"] for figures in reported] == expected
    assert all("validation_iou" in figures for figures in reported)
    assert read_log(work) == reported


def test_one_step_of_the_average(work: Path):
    """After step 0 nine tenths of the new weights count, whatever ``average_decay`` is."""
    recipe = replace(RECIPE, average_decay=0.998, stages=(Stage(48, 1, 1, 5, 1.0),))
    average = run(recipe, work)
    torch.manual_seed(recipe.seed)
    start = initialise(build_sam(SMALL, 48)).state_dict()
    trained = read_checkpoint(work)["sam"]
    for name, values in average.items():
        torch.testing.assert_close(values, start[name].lerp(trained[name], 0.9))
    assert not torch.equal(
        start["mask_decoder.mask_tokens.weight"], average["mask_decoder.mask_tokens.weight"]
    )


def test_growing_keeps_weights_and_average(work: Path):
    """Positions are resized, nothing is drawn anew; the average goes on as it was."""
    recipe = replace(
        RECIPE, checkpoint_every=2, stages=(Stage(48, 2, 1, 5, 1.0), Stage(64, 1, 1, 5, 1.0))
    )
    with pytest.raises(PowerCut):
        run(recipe, work, report=cut_at(3))
    before = resize_positions(read_checkpoint(work)["average"], SMALL, 64)
    average = run(recipe, work)
    trained = read_checkpoint(work)["sam"]
    for name, values in average.items():  # after step 2 the old average counts 3 of 12
        torch.testing.assert_close(values, before[name].lerp(trained[name], 9 / 12))


def test_growing_at_rate_zero_is_resizing(work: Path):
    recipe = replace(
        RECIPE,
        optimizer={**OPTIMIZER, "learning_rate": 0.0},
        stages=(Stage(48, 1, 1, 5, 1.0), Stage(64, 1, 1, 5, 1.0)),
    )
    average = run(recipe, work)
    torch.manual_seed(recipe.seed)
    start = initialise(build_sam(SMALL, 48)).state_dict()
    expected = resize_positions(start, SMALL, 64)
    torch.testing.assert_close(average, expected)
    torch.testing.assert_close(dict(read_checkpoint(work)["sam"]), expected)


def test_rate_and_decay_reach_the_optimizer(whole: tuple[dict[str, Tensor], Path]):
    _, folder = whole
    matrices, vectors = read_checkpoint(folder)["optimizer"]["param_groups"]
    assert matrices["lr"] == vectors["lr"] == RECIPE.learning_rate_at(6) == pytest.approx(5e-4)
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
        calls += 1  # two images a step in the first stage, one in the second
        loss = mask_loss(*arguments)
        return spoil(loss) if calls == 2 * 3 + 3 else loss

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


def other_backbone(path: Path) -> None:
    narrow = Backbone("narrow", 26, 2, 2, (0,), 3)
    pretrain(replace(RECIPE, stages=(Stage(48, 1, 1, 5, 1.0),)), narrow, [pair(2)], [], path.parent)


def truncated(path: Path) -> None:
    torch.save({"step": 3, "sam": {"weight": torch.zeros(101, 103)}}, path)
    path.write_bytes(path.read_bytes()[:20_011])


def incomplete(path: Path) -> None:
    torch.save({"step": 3, "image_size": 48}, path)


@pytest.mark.parametrize("spoil", [other_backbone, truncated, incomplete, Path.touch])
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
    assert message.endswith("Fix: remove it to start again, or use the recipe it was made with")
    assert "\n" not in message
    assert checkpoint.read_bytes() == before


SCHEDULE = replace(
    RECIPE,
    optimizer={**OPTIMIZER, "learning_rate": 0.3, "warmup_steps": 10, "decay_share": 0.4},
    stages=(Stage(48, 20, 1, 5, 0.5), Stage(64, 30, 1, 5, 0.5)),
)


@pytest.mark.parametrize(
    "step, share",
    [
        pytest.param(0, 1 / 10, id="first"),
        pytest.param(4, 5 / 10, id="half-way-up"),
        pytest.param(9, 1, id="warm"),
        pytest.param(20, 1, id="second-stage"),
        pytest.param(38, 1, id="last-constant"),
        pytest.param(39, 11 / 12, id="falling"),
        pytest.param(44, 6 / 12, id="half-way-down"),
        pytest.param(49, 1 / 12, id="last"),
        pytest.param(50, 0, id="end"),
    ],
)
def test_learning_rate(step: int, share: float):
    assert SCHEDULE.learning_rate_at(step) == pytest.approx(0.3 * share)


@pytest.mark.parametrize("step, size", [(0, 48), (19, 48), (20, 64), (49, 64), (50, 64)])
def test_stage_at(step: int, size: int):
    assert SCHEDULE.stage_at(step).image_size == size
    assert SCHEDULE.total_steps == 50


def test_the_shipped_recipe_is_whole():
    recipe = PretrainRecipe.from_dict(read_recipe("train", "tiny"))
    backbone = Backbone.from_dict(read_recipe("export", recipe.backbone)["backbone"])
    assert backbone.name == recipe.backbone
    assert set(recipe.optimizer) == set(OPTIMIZER)
    assert recipe.stages[-1].image_size == read_recipe("export", recipe.backbone)["image_size"]
    assert all(stage.image_size % 16 == 0 for stage in recipe.stages)
    assert recipe.total_steps > 0


def without_seed(values: dict[str, Any]) -> None:
    del values["seed"]


def without_loss(values: dict[str, Any]) -> None:
    del values["loss"]


def without_steps(values: dict[str, Any]) -> None:
    del values["stages"][1]["steps"]


def with_more(values: dict[str, Any]) -> None:
    values["epochs"] = 3


def with_more_loss(values: dict[str, Any]) -> None:
    values["loss"]["lovasz"] = 1.0


@pytest.mark.parametrize(
    "spoil, named",
    [
        (without_seed, "'seed'"),
        (without_loss, "'loss'"),
        (without_steps, "'steps'"),
        (with_more, "'epochs'"),
        (with_more_loss, "'lovasz'"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_recipe_that_does_not_fit_names_the_field(spoil, named: str):
    values = read_recipe("train", "tiny")
    spoil(values)
    with pytest.raises(ConfigError) as caught:
        PretrainRecipe.from_dict(values)
    assert str(caught.value).startswith("pretrain recipe: a field is missing or unknown; got ")
    assert named in str(caught.value)
