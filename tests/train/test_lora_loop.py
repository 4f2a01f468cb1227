"""The loop of LoRA training: the plain loop's numbers, resuming, and what ends it early."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from annotated import SETTINGS, disks
from drawing import draw_weights
from reference import training
from segment_anything.modeling import Sam
from torch import Tensor

from cellseg1_rt.backbone import Backbone
from cellseg1_rt.errors import WeightsError
from cellseg1_rt.model.lora import add_lora, lora_state
from cellseg1_rt.model.lora_layout import is_replaced
from cellseg1_rt.model.sam import build_sam
from cellseg1_rt.train import lora_loop as module
from cellseg1_rt.train.lora_held_out import split_pair
from cellseg1_rt.train.lora_loop import LoraJob, Trained, train_lora
from cellseg1_rt.train.lora_recipe import (
    EarlyStop,
    LoraOptimizer,
    LoraOptions,
    LoraRecipe,
    Schedule,
)
from cellseg1_rt.train.lora_samples import draw_lora_sample, tiles_of_pairs
from cellseg1_rt.train.lora_step import StepOptions

SMALL = Backbone("small", 24, 2, 2, (1,), 2)
IMAGE_SIZE = 48
DATA = replace(SETTINGS, image_size=IMAGE_SIZE, tile_px=41, smallest_cell_px=20, edge_band_px=3)
RECIPE = LoraRecipe(
    seed=5,
    lora=LoraOptions(4, 0.1),
    optimizer=LoraOptimizer(3e-3, 0.01, 0.3, batch_tiles=2, batches_per_step=8),
    schedule=Schedule(3, 10, 1),
    data=replace(DATA, smallest_set=1),
)
STOPPING = replace(RECIPE, early_stop=EarlyStop(0.4, 1, 1, 2))
BATCHES = 5


class PowerCut(Exception):
    """What ends a run in the middle."""


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def fresh_sam(recipe: LoraRecipe = RECIPE) -> Sam:
    """A drawn SAM with a LoRA as training starts with: B is zero."""
    torch.manual_seed(recipe.seed)
    sam = draw_weights(build_sam(SMALL, IMAGE_SIZE), 3)
    return add_lora(sam, recipe.lora.rank, recipe.lora.dropout)


def job(recipe: LoraRecipe = RECIPE, **changes: Any) -> LoraJob:
    """Nine tiles of one picture: five batches an epoch, of which the last has one tile."""
    pair = disks(7, 53, 61, radius=6, gap=3)
    tiles = tiles_of_pairs([pair], recipe.data, crops=0)
    assert len(tiles) == 9
    held_out = []
    if recipe.early_stop is not None:
        held_out = [split_pair(*pair, recipe.early_stop.corner_share, recipe.data, 41).held_out]
    values = {
        "recipe": recipe,
        "epochs": recipe.schedule.epochs,
        "tiles": tiles,
        "held_out": held_out,
        "options": StepOptions(2),
        "identity": {"sam": "1"},
    }
    return LoraJob(**{**values, **changes})


def run(work: Path, recipe: LoraRecipe = RECIPE, **options: Any) -> Trained:
    work.mkdir(exist_ok=True)
    changes = options.pop("changes", {})
    return train_lora(fresh_sam(recipe), job(recipe, **changes), work, **options)


def cut_at(step: int) -> Callable[[dict[str, float]], None]:
    def report(figures: dict[str, float]) -> None:
        if figures["step"] == step:
            raise PowerCut

    return report


def read_log(work: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (work / "log.jsonl").read_text().splitlines()]


def lasting(work: Path) -> list[dict[str, float]]:
    """The log without what depends on the clock and the machine."""
    passing = ("seconds", "seconds_left", "images_per_s", "memory_mb")
    return [{k: v for k, v in line.items() if k not in passing} for line in read_log(work)]


def require_equal(one: dict[str, Tensor] | None, other: dict[str, Tensor] | None) -> None:
    assert one is not None
    assert other is not None
    assert one.keys() == other.keys()
    for name, values in one.items():
        assert torch.equal(values, other[name]), name


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trained, Path]:
    """An uninterrupted run with dropout and early stopping, and its work folder."""
    folder = tmp_path_factory.mktemp("whole")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    trained = run(folder, STOPPING)
    torch.set_num_threads(threads)
    return trained, folder


def drawn_epochs(recipe: LoraRecipe, epochs: int) -> list[list[list[Any]]]:
    """Samples of every batch: an order for each epoch, a key for each place in it."""
    tiles = job(recipe).tiles
    found = []
    for epoch in range(epochs):
        order = np.random.default_rng((recipe.seed, epoch)).permutation(len(tiles))
        drawn = [
            draw_lora_sample(tiles[tile], (recipe.seed, epoch, place), recipe.data)
            for place, tile in enumerate(order)
        ]
        batches = [drawn[first : first + 2] for first in range(0, len(drawn), 2)]
        found.append([[s for s in batch if s is not None] for batch in batches])
    return found


@pytest.mark.parametrize("emptied", [None, 2, BATCHES - 1], ids=["all", "empty", "empty-last"])
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_the_plain_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, emptied: int | None):
    """Losses of every step and the final LoRA; an empty batch goes with the step due on it."""
    recipe = replace(RECIPE, lora=LoraOptions(4, 0.0))
    epochs = drawn_epochs(recipe, 3)
    if emptied is not None:
        epochs[1][emptied] = []

        def draw(tile: Any, key: tuple[int, ...], settings: Any) -> Any:
            skipped = key[1] == 1 and key[2] // 2 == emptied
            return None if skipped else draw_lora_sample(tile, key, settings)

        monkeypatch.setattr(module, "draw_lora_sample", draw)
    trained = run(tmp_path, recipe)
    plain = fresh_sam(recipe)
    start = lora_state(plain)
    bare = draw_weights(build_sam(SMALL, IMAGE_SIZE), 3)
    parameters = training.add_lora(bare, start)
    losses = training.train(bare, parameters, epochs)
    assert trained.state is not None
    moved = max(float((parameters[k] - start[k]).detach().abs().max()) for k in parameters)
    for name, expected in parameters.items():
        difference = float((trained.state[name] - expected.detach()).abs().max())
        assert difference <= 0.01 * moved, name
    logged = read_log(tmp_path)
    since = BATCHES if emptied == BATCHES - 1 else 2 * BATCHES  # the last but one step's end
    of_last_step = [loss for loss in losses[since:] if not math.isnan(loss)]
    assert logged[-1]["loss"] == pytest.approx(np.mean(of_last_step), rel=1e-3)
    assert len(logged) == (3 if emptied != BATCHES - 1 else 2)


def test_rate_and_momentum_follow_the_cycle(tmp_path: Path):
    run(tmp_path)
    planned = 3 * (BATCHES + 7) // 8
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([parameter], lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, planned, pct_start=0.3)
    rates = []
    for _ in range(3):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert [line["learning_rate"] for line in read_log(tmp_path)] == rates
    (group,) = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["optimizer"][
        "param_groups"
    ]
    assert group["betas"] == optimizer.param_groups[0]["betas"]
    assert group["betas"][0] != 0.9
    assert group["weight_decay"] == 0.01


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_heads_are_trained_at_their_share_of_the_rate(tmp_path: Path, share: float):
    """The LoRA file's full copies of the heads are what was trained; the rest is as it was."""
    recipe = replace(RECIPE, optimizer=replace(RECIPE.optimizer, heads_share=share))
    before = lora_state(fresh_sam(recipe))
    trained = run(tmp_path, recipe)
    assert trained.state is not None
    moved = {
        name.split(".")[1]
        for name, values in trained.state.items()
        if name in before and is_replaced(name) and not torch.equal(values, before[name])
    }
    heads = {"iou_token", "mask_tokens", "output_upscaling", "output_hypernetworks_mlps"}
    assert moved == ({*heads, "iou_prediction_head"} if share else set())
    groups = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["optimizer"]["param_groups"]
    lora, *others = (group["lr"] for group in groups)
    assert others == ([pytest.approx(share * lora)] if share else [])


def test_trained_heads_resume_bit_equal(tmp_path: Path):
    recipe = replace(STOPPING, optimizer=replace(RECIPE.optimizer, heads_share=0.25))
    expected = run(tmp_path / "whole", recipe)
    with pytest.raises(PowerCut):
        run(tmp_path / "cut", recipe, report=cut_at(2))
    require_equal(run(tmp_path / "cut", recipe).state, expected.state)


@pytest.mark.parametrize("kept", [1, 2])
def test_resumed_is_bit_equal(whole: tuple[Trained, Path], tmp_path: Path, kept: int):
    """Dropout's generator, the optimiser, the schedule and what validation said go on as before."""
    expected, folder = whole
    with pytest.raises(PowerCut):
        run(tmp_path, STOPPING, report=cut_at(kept + 1))
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["epoch"] == kept
    found = run(tmp_path, STOPPING)
    require_equal(found.state, expected.state)
    assert (found.epoch, found.ended) == (expected.epoch, expected.ended)
    assert lasting(tmp_path) == lasting(folder)
    one, other = (
        torch.load(work / "checkpoint.pt", weights_only=True) for work in (tmp_path, folder)
    )
    assert torch.equal(one["random"], other["random"])
    require_equal(one["lora"], other["lora"])


def test_gradients_of_a_skipped_step_outlive_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A step that went with its empty batch leaves its gradients to the next, resumed or not."""

    def draw(tile: Any, key: tuple[int, ...], settings: Any) -> Any:
        skipped = key[1] == 0 and key[2] // 2 == BATCHES - 1
        return None if skipped else draw_lora_sample(tile, key, settings)

    monkeypatch.setattr(module, "draw_lora_sample", draw)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    expected = run(whole)
    with pytest.raises(PowerCut):
        run(cut, report=cut_at(1))
    checkpoint = torch.load(cut / "checkpoint.pt", weights_only=True)
    assert (checkpoint["epoch"], checkpoint["step"]) == (1, 0)
    assert all(gradient is not None for gradient in checkpoint["gradients"])
    require_equal(run(cut).state, expected.state)


def test_a_finished_run_is_not_trained_further(whole: tuple[Trained, Path], tmp_path: Path):
    expected, folder = whole
    shutil.copy(folder / "checkpoint.pt", tmp_path)
    require_equal(run(tmp_path, STOPPING).state, expected.state)
    assert not (tmp_path / "log.jsonl").read_text()


def test_the_log(whole: tuple[Trained, Path]):
    _, folder = whole
    steps = [line for line in read_log(folder) if "loss" in line]
    judged = [line for line in read_log(folder) if "held_out_score" in line]
    assert [line["step"] for line in steps] == [1, 2, 3]
    assert [line["epoch"] for line in judged] == [1, 2, 3]
    for line in steps:
        assert line["loss"] == pytest.approx(line["score_loss"] + line["mask_loss"])
        assert line["images_per_s"] > 0
        assert line["memory_mb"] > 50
    assert steps[-1]["seconds_left"] == 0
    assert (folder / "curves.png").stat().st_size > 1000


def test_an_interrupt_keeps_the_last_whole_epoch(tmp_path: Path, whole: tuple[Trained, Path]):
    def interrupt(figures: dict[str, float]) -> None:
        if figures["step"] == 2:
            raise KeyboardInterrupt

    trained = run(tmp_path, report=interrupt)
    assert (trained.ended, trained.epoch) == ("interrupted", 1)
    checkpoint = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    require_equal(trained.state, checkpoint["lora"])
    assert run(tmp_path).ended == "finished"


def test_an_interrupt_in_the_first_epoch_has_nothing_to_keep(tmp_path: Path):
    def interrupt(figures: dict[str, float]) -> None:
        raise KeyboardInterrupt

    trained = run(tmp_path, report=interrupt)
    assert (trained.ended, trained.state) == ("interrupted", None)


@pytest.mark.parametrize("spoilt", ["loss", "gradient"])
def test_what_is_not_finite_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoilt: str
):
    add_gradients, calls = module.add_gradients, 0

    def spoil(sam: Sam, *arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        losses = add_gradients(sam, *arguments)
        if calls != BATCHES + 3:
            return losses
        if spoilt == "loss":
            return replace(losses, mask=math.nan)
        module.lora_parameters(sam)[3].grad[0, 0] = math.inf
        return losses

    monkeypatch.setattr(module, "add_gradients", spoil)
    trained = run(tmp_path)
    assert trained.ended == "not finite"
    assert str(trained.error).startswith("epoch 2, batch 3, step 2: loss or gradient is not finite")
    assert "Fix: resume from the last epoch in fp32" in str(trained.error)
    assert trained.epoch == 1
    require_equal(trained.state, torch.load(tmp_path / "checkpoint.pt", weights_only=True)["lora"])


def test_early_stop_keeps_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    scores, states = iter([0.1, 0.5, 0.4, 0.5, 0.9]), []

    def judged(sam: Sam, *_: Any) -> dict[str, float]:
        states.append(lora_state(sam))
        return {"held_out_score": next(scores)}

    monkeypatch.setattr(module, "judge", judged)
    trained = run(tmp_path, STOPPING, changes={"epochs": 5})
    assert (trained.ended, trained.epoch) == ("early", 2)
    require_equal(trained.state, states[1])
    assert len(states) == 4
    again = run(tmp_path, STOPPING, changes={"epochs": 5})
    assert (again.ended, again.epoch) == ("early", 2)
    assert len(states) == 4


def test_the_loss_falls(tmp_path: Path):
    recipe = replace(
        STOPPING,
        lora=LoraOptions(4, 0.0),
        optimizer=replace(RECIPE.optimizer, batches_per_step=1),
        early_stop=EarlyStop(0.4, 1, 1, 50),
    )
    trained = run(tmp_path, recipe, changes={"epochs": 5})
    lines = read_log(tmp_path)
    losses = [line["loss"] for line in lines if "loss" in line]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    judged = [line["held_out_score"] for line in lines if "held_out_score" in line]
    assert trained.epoch == 1 + int(np.argmax(judged))


def test_tiles_at_once_do_not_change_the_result(tmp_path: Path):
    recipe = replace(RECIPE, lora=LoraOptions(4, 0.0))
    one = run(tmp_path / "1", recipe, changes={"epochs": 1, "options": StepOptions(1, 2)})
    both = run(tmp_path / "2", recipe, changes={"epochs": 1, "options": StepOptions(2, 99)})
    assert one.state is not None
    assert both.state is not None
    for name, values in one.state.items():
        torch.testing.assert_close(values, both.state[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "recipe, changes, message",
    [
        (replace(STOPPING, seed=6), {}, "recipe.seed is 5, not 6"),
        (STOPPING, {"identity": {"sam": "2"}}, "run.sam is '1', not '2'"),
        (STOPPING, {"epochs": 4}, "run.epochs is 3, not 4"),
    ],
    ids=["seed", "sam", "epochs"],
)
def test_a_checkpoint_of_another_run(
    whole: tuple[Trained, Path],
    tmp_path: Path,
    recipe: LoraRecipe,
    changes: dict[str, Any],
    message: str,
):
    shutil.copy(whole[1] / "checkpoint.pt", tmp_path)
    with pytest.raises(WeightsError) as caught:
        run(tmp_path, recipe, changes=changes)
    assert f"checkpoint is of another run; got {message}" in str(caught.value)


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda path: path.write_bytes(b""), id="empty"),
        pytest.param(lambda path: path.write_bytes(path.read_bytes()[:1009]), id="cut"),
        pytest.param(lambda path: torch.save(torch.zeros(3), path), id="a-tensor"),
        pytest.param(
            lambda path: torch.save({"identity": job(STOPPING).parts(), "epoch": 1}, path),
            id="incomplete",
        ),
    ],
)
def test_a_damaged_checkpoint(
    whole: tuple[Trained, Path], tmp_path: Path, spoil: Callable[[Path], Any]
):
    shutil.copy(whole[1] / "checkpoint.pt", tmp_path)
    spoil(tmp_path / "checkpoint.pt")
    with pytest.raises(WeightsError, match="checkpoint cannot be resumed; got ") as caught:
        run(tmp_path, STOPPING)
    assert "\n" not in str(caught.value)
