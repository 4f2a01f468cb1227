"""The devices of one machine: which ones, and a model for each.

Each device worker is a thread with a model of its own. On a card, that is one worker a card; on the
CPU, workers share the cores evenly.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.backends.cards import on_card, require_cards, visible_cards
from cellseg1_rt.backends.choose import RUNTIMES
from cellseg1_rt.errors import ConfigError
from cellseg1_rt.results import Result

if TYPE_CHECKING:
    from cellseg1_rt.runtime.model import Model

__all__ = [
    "Device",
    "Devices",
    "load_devices",
    "parse_devices",
    "threads_of_each",
    "usable_cores",
]


@dataclass(frozen=True)
class Devices:
    """What ``--devices`` asks for.

    Attributes
    ----------
    count : workers; None is one a card, or one on the CPU.
    cards : the numbers of the cards to use, or None where they are not named.
    """

    count: int | None = None
    cards: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Device:
    """A model, and the card that it was loaded on; None is the CPU."""

    model: Model
    card: int | None = None

    def run(
        self, segmenter: Callable[[NDArray[np.uint8]], Result]
    ) -> Callable[[NDArray[np.uint8]], Result]:
        """A function that does the same as this one, on this device."""
        card = self.card
        if card is None:
            return segmenter

        def segment(rgb: NDArray[np.uint8]) -> Result:
            with on_card(card):
                return segmenter(rgb)

        return segment


def parse_devices(text: str) -> Devices:
    """``all``, a number of workers, or cards with commas: ``0,1``, and ``1,`` for that one alone.

    Raises
    ------
    ConfigError : if it is none of these.
    """
    if text == "all":
        return Devices()
    parts = text.split(",")
    numbers = parts[:-1] if len(parts) == 2 and not parts[1] else parts
    if all(part.isdecimal() for part in numbers) and len(set(numbers)) == len(numbers):
        if len(parts) > 1:
            return Devices(cards=tuple(int(part) for part in numbers))
        if 1 <= int(text) <= 256:
            return Devices(count=int(text))
    raise ConfigError(
        "not a choice of devices",
        where="--devices",
        got=repr(text),
        expected="all, a number of workers up to 256, or cards such as 0,1 (1, is card 1 alone)",
    )


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def threads_of_each(workers: int, threads: int, cores: int) -> int:
    """CPU threads of each of several workers; 0 lets a single one take all cores.

    Parameters
    ----------
    threads : of all workers together, 0 is ``cores``.
    """
    return threads if workers == 1 else max(1, (threads or cores) // workers)


def load_devices(asked: Devices, load: Callable[[int], Model], threads: int) -> list[Device]:
    """Load a model for each device.

    The bundle's files are checked once, with the first model; all of them run on the same runtime.

    Parameters
    ----------
    load : the model, for a number of CPU threads.
    threads : CPU threads of all workers together; 0 is all cores.

    Raises
    ------
    ConfigError : if cards are named that are not there, or the runtime is on the CPU.
    """
    workers = asked.count or 1
    each = threads_of_each(workers, threads, usable_cores())
    if asked.cards is not None:
        require_cards(asked.cards, visible_cards())
        with on_card(asked.cards[0]):
            first = load(each)
        _require_on_card(first)
        cards = asked.cards
    else:
        first = load(each)
        if not RUNTIMES[first.choice.runtime].on_card:
            return [Device(first)] + [Device(_again(first, each)) for _ in range(workers - 1)]
        if asked.count == 1:
            return [Device(first)]
        visible = visible_cards()
        cards = tuple(range(asked.count or len(visible)))
        require_cards(cards, visible)
    devices = [Device(first, cards[0])]
    for card in cards[1:]:
        with on_card(card):
            devices.append(Device(_again(first, each), card))
    return devices


def _again(model: Model, threads: int) -> Model:
    """Another one of the same bundle, runtime and settings."""
    return type(model)(
        model.bundle,
        model.manifest,
        model.choice,
        model.settings,
        threads=threads,
        prompt_batch=model.prompt_batch,
    )


def _require_on_card(model: Model) -> None:
    runtime = model.choice.runtime
    if not RUNTIMES[runtime].on_card:
        raise ConfigError(
            "cards are named, and this runtime does not use any",
            where="--devices",
            got=f"the runtime {runtime!r}, {model.choice.reason}",
            fix="pass a number of workers that share the CPU, or a --runtime on the card",
        )
