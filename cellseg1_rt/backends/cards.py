"""Several NVIDIA cards in one process: how many there are, and which of them a thread uses.

May import numba.cuda. A runtime on the card takes the card that is current in the thread: both what
it loads and what it runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from cellseg1_rt.errors import ConfigError
from cellseg1_rt.extras import require

__all__ = ["on_card", "require_cards", "visible_cards"]


def visible_cards() -> list[tuple[int, int]]:
    """The compute capability of each card that this process may use, in the driver's order.

    ``CUDA_VISIBLE_DEVICES`` decides which those are.

    Raises
    ------
    MissingExtraError : if numba-cuda is not installed.
    """
    require("numba_cuda", extra="rtx", needed_for="a runtime on several cards")
    from numba import cuda

    return [tuple(card.compute_capability) for card in cuda.gpus]


def require_cards(cards: Sequence[int], visible: Sequence[tuple[int, int]]) -> None:
    """Refuse cards that are not there, or of another kind than the first one.

    Parameters
    ----------
    cards : numbers, from 0.
    visible : what ``visible_cards`` gives.

    Raises
    ------
    ConfigError : naming the card.
    """
    for card in cards:
        if card >= len(visible):
            raise ConfigError(
                "no such card",
                where="--devices",
                got=card,
                expected=f"below {len(visible)}, the number of cards here",
                fix="see nvidia-smi, and CUDA_VISIBLE_DEVICES if it is set",
            )
        if visible[card] != visible[0]:
            # An engine is made for one kind, and another kind rounds in another way.
            raise ConfigError(
                f"card {card} is of another kind than card 0",
                where="--devices",
                got="compute capability {}.{}".format(*visible[card]),
                expected="{}.{}".format(*visible[0]),
                fix="run a shard on each kind: CUDA_VISIBLE_DEVICES=… with --shard i/n",
            )


@contextmanager
def on_card(card: int) -> Iterator[None]:
    """Make a card the one that this thread uses."""
    from numba import cuda

    with cuda.gpus[card]:
        yield
