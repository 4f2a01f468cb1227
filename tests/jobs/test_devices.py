"""Which devices are meant, a model for each, and equal results however many there are."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from job_harness import SETTINGS, outputs_in, small_samples

import cellseg1_rt
from cellseg1_rt.backends import cards as cards_module
from cellseg1_rt.backends.cards import require_cards
from cellseg1_rt.backends.choose import Choice
from cellseg1_rt.errors import ConfigError
from cellseg1_rt.jobs import devices as module
from cellseg1_rt.jobs.batch import segmenter_of
from cellseg1_rt.jobs.devices import Devices, load_devices, parse_devices, threads_of_each
from cellseg1_rt.jobs.inputs import find_inputs, plan_tasks
from cellseg1_rt.jobs.job import Job, run_job

ASKED = {
    "all": Devices(),
    "1": Devices(count=1),
    "13": Devices(count=13),
    "0,1": Devices(cards=(0, 1)),
    "5,2,3": Devices(cards=(5, 2, 3)),
    "1,": Devices(cards=(1,)),
}


@pytest.mark.parametrize("text", ASKED)
def test_what_is_asked_for(text):
    assert parse_devices(text) == ASKED[text]


@pytest.mark.parametrize("text", ["", "0", "257", "-1", "gpu", "0,0", ",", "1,,2", "1,2,", "1.5"])
def test_what_is_no_choice(text):
    with pytest.raises(ConfigError, match=r"--devices: not a choice of devices; got '.*all, a num"):
        parse_devices(text)


@pytest.mark.parametrize(
    "workers, threads, each",
    [(1, 0, 0), (1, 5, 5), (2, 0, 3), (3, 0, 2), (7, 0, 1), (11, 0, 1), (2, 5, 2), (3, 2, 1)],
)
def test_workers_share_seven_cores(workers, threads, each):
    assert threads_of_each(workers, threads, cores=7) == each


@dataclass
class FakeModel:
    """What a model is to ``load_devices``, and the card that was current when it was made."""

    bundle: str
    manifest: str
    choice: Choice
    settings: str
    threads: int = 0
    prompt_batch: int = 64

    def __post_init__(self) -> None:
        self.card = current[-1]


current: list[int | None] = [None]


@pytest.fixture
def three_cards(monkeypatch):
    @contextmanager
    def on_card(card: int):
        current.append(card)
        yield
        current.pop()

    monkeypatch.setattr(module, "on_card", on_card)
    monkeypatch.setattr(module, "visible_cards", lambda: [(8, 9)] * 3)


def load(threads: int, runtime: str) -> FakeModel:
    return FakeModel("bundle", "manifest", Choice(runtime, "fp32", "why"), "settings", threads, 17)


ON_CARDS = {
    "all": [None, 1, 2],
    "1": [None],
    "2": [None, 1],
    "2,1": [2, 1],
    "1,": [1],
}


@pytest.mark.parametrize("text", ON_CARDS)
def test_each_card_has_a_model_loaded_and_run_on_it(text, three_cards):
    devices = load_devices(parse_devices(text), partial(load, runtime="tensorrt"), threads=0)
    assert [device.model.card for device in devices] == ON_CARDS[text]
    used = [device.run(lambda rgb: current[-1])(None) for device in devices]
    # The first is loaded before anyone knows that its runtime is on a card: that is card 0.
    assert used == [card if card is not None or len(used) == 1 else 0 for card in ON_CARDS[text]]
    assert {device.model.prompt_batch for device in devices} == {17}
    assert current == [None]


def test_workers_on_the_cpu_have_models_of_their_own(monkeypatch):
    monkeypatch.setattr(module, "usable_cores", lambda: 7)
    devices = load_devices(parse_devices("3"), partial(load, runtime="openvino"), threads=0)
    assert len({id(device.model) for device in devices}) == 3
    assert [device.model.threads for device in devices] == [2, 2, 2]
    assert [device.card for device in devices] == [None] * 3
    (device,) = load_devices(parse_devices("all"), partial(load, runtime="openvino"), threads=5)
    assert device.model.threads == 5


def test_cards_named_for_a_runtime_without_them_are_refused(three_cards):
    with pytest.raises(ConfigError, match=r"--devices: cards are named.*'onnxruntime', why"):
        load_devices(parse_devices("0,1"), partial(load, runtime="onnxruntime"), threads=0)


def test_cards_that_are_not_there_or_not_alike_are_refused():
    require_cards((0, 2), [(8, 9), (9, 0), (8, 9)])
    with pytest.raises(ConfigError, match=r"no such card; got 3; expected below 3"):
        require_cards((0, 3), [(8, 9)] * 3)
    with pytest.raises(ConfigError, match=r"card 1 is of another kind.*got compute capability 9.0"):
        require_cards((0, 1), [(8, 9), (9, 0)])


def test_without_numba_cuda_its_install_line_is_said(monkeypatch):
    monkeypatch.setattr("cellseg1_rt.extras.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"cellseg1-rt\[rtx\]"):
        cards_module.visible_cards()


def run_with(devices, images: Path, folder: Path) -> dict[str, bytes]:
    tasks = plan_tasks(find_inputs([images]), folder, ("tif", "csv"))
    segmenters = [device.run(segmenter_of(device.model)) for device in devices]
    job = Job(tasks, folder, SETTINGS)
    summary = run_job(job, segmenters, stop=threading.Event(), report=lambda outcome, tally: None)
    assert (summary.done, summary.failed) == (len(tasks), 0)
    return outputs_in(folder)


def model_on(runtime: str, threads: int) -> cellseg1_rt.Model:
    return cellseg1_rt.load("tiny", runtime=runtime, threads=threads, points_per_side=3)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_several_workers_give_what_one_gives(runtime, tmp_path):
    pytest.importorskip(runtime)
    images = small_samples(tmp_path / "in", 3)
    devices = load_devices(Devices(count=2), partial(model_on, runtime), threads=2)
    one = run_with(devices[:1], images, tmp_path / "one")
    assert len(one) == 6
    assert run_with(devices, images, tmp_path / "two") == one
    if runtime == "openvino":  # a model that two of them share does not mix up images either
        assert run_with(devices[:1] * 2, images, tmp_path / "shared") == one
