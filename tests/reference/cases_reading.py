"""Cases for "Reading images": pixels, and wrong readings that must give other bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ReadingCase:
    """A rule, pixels on which it decides, some bytes by hand, and the rule broken.

    ``sample`` is the RGB of the pixel (0, 0), or None where reading is an error.
    """

    rule: str
    pixels: np.ndarray
    sample: tuple[int, int, int] | None
    broken: Mapping[str, Mapping[str, Callable]]


def plane(*values: float, dtype: type = np.uint8) -> np.ndarray:
    """[5, 7] with ``values`` first and then values between their extremes."""
    rest = np.linspace(min(values), max(values), 35 - len(values))
    return np.concatenate([values, rest]).reshape(5, 7).astype(dtype)


def colour(*planes: np.ndarray) -> np.ndarray:
    return np.stack(planes, axis=-1)


ZERO = np.zeros((5, 7), np.uint8)
FLAT = np.full((5, 7), 9, np.uint8)
DARK, BRIGHT, OTHER = plane(10, 3, 50), plane(100, 60, 200), plane(40, 5, 90)
"""Stretched on their own, the first pixels are 37.9..., 72.8... and 105."""


def rounded(values):
    return np.rint(values).astype(np.uint8)


def from_zero(values):
    return values / values.max() * 255


def black(values):
    return np.zeros_like(values)


def every_channel(channels):
    return list(range(len(channels)))


def jointly(a, b, byte):
    both = byte(np.stack([a, b]))
    return both[0], both[1]


def each_on_its_own(channels, byte):
    return np.stack([byte(channel) for channel in channels], axis=-1)


def never_one(a, b):
    return False


def copy_of_green(pixels):
    return pixels[:, :, 1]


def alpha_first(pixels):
    return pixels[:, :, 1:]


def premultiplied(pixels):
    return pixels[:, :, :3] * (pixels[:, :, 3:] / pixels[:, :, 3:].max())


ROUND = {"rounded": {"truncated": rounded}}
EVERY = {"every channel counts": {"used_channels": every_channel}}

READING_CASES = [
    ReadingCase(
        "grey is stretched from its minimum",
        DARK,
        (37,) * 3,
        {
            **ROUND,
            "from zero": {"stretched": from_zero},
        },
    ),
    ReadingCase("grey of 16 bits", plane(1000, 300, 5000, dtype=np.uint16), (37,) * 3, ROUND),
    ReadingCase(
        "grey with negative values",
        plane(-1.0, -4.0, 11.0, dtype=float),
        (51,) * 3,
        {
            "from zero": {"stretched": from_zero},
        },
    ),
    ReadingCase("one channel in three axes is grey", BRIGHT[:, :, None], (72,) * 3, ROUND),
    ReadingCase(
        "a constant grey is clipped",
        np.full((5, 7), 300.7),
        (255,) * 3,
        {
            "black": {"constant": black},
        },
    ),
    ReadingCase("a constant grey is truncated", np.full((5, 7), 3.7), (3,) * 3, ROUND),
    ReadingCase(
        "a constant colour is clipped",
        colour(FLAT, FLAT, FLAT),
        (9,) * 3,
        {
            "black": {"constant": black},
        },
    ),
    ReadingCase("one used channel becomes grey", colour(ZERO, BRIGHT, ZERO), (72,) * 3, EVERY),
    ReadingCase(
        "two used channels stay in place",
        colour(ZERO, DARK, BRIGHT),
        (0, 37, 72),
        {
            "jointly": {"two_channels": jointly},
            **EVERY,
        },
    ),
    ReadingCase(
        "one of two used channels is constant",
        colour(FLAT, ZERO, DARK),
        (9, 0, 37),
        {
            "black": {"constant": black},
        },
    ),
    ReadingCase(
        "two identical channels count as one",
        colour(DARK, ZERO, DARK),
        (37,) * 3,
        {
            "as two": {"identical_count_as_one": never_one},
        },
    ),
    ReadingCase(
        "three channels are stretched jointly",
        colour(DARK, BRIGHT, OTHER),
        (9, 125, 47),
        {
            "each on its own": {"three_channels": each_on_its_own},
            **ROUND,
        },
    ),
    ReadingCase(
        "two channels are red and green",
        colour(DARK, BRIGHT),
        (37, 72, 0),
        {
            "green and blue alike": {"third_channel": copy_of_green},
        },
    ),
    ReadingCase(
        "alpha is dropped",
        colour(DARK, BRIGHT, OTHER, BRIGHT),
        (9, 125, 47),
        {
            "alpha first": {"without_alpha": alpha_first},
            "premultiplied": {"without_alpha": premultiplied},
        },
    ),
    ReadingCase(
        "alpha does not count as a channel",
        colour(DARK, ZERO, ZERO, FLAT),
        (37,) * 3,
        {
            "alpha first": {"without_alpha": alpha_first},
        },
    ),
]

READING_ERRORS = {
    "NaN": np.where(DARK == 3, np.nan, DARK),
    "infinite": np.where(DARK == 3, np.inf, DARK),
    "grey of zeros": ZERO,
    "colour of zeros": colour(ZERO, ZERO, ZERO),
    "zeros but for alpha": colour(ZERO, ZERO, ZERO, BRIGHT),
    "five channels": colour(DARK, DARK, DARK, DARK, DARK),
    "one axis": DARK[0],
}
