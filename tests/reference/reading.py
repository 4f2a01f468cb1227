"""The rules of "Reading images" in plain numpy, each as one function that can be replaced."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


def truncated(values: np.ndarray) -> np.ndarray:
    """Rule: "truncated to uint8 (rounding would change about half the grey levels)"."""
    return np.trunc(values).astype(np.uint8)


def constant(values: np.ndarray) -> np.ndarray:
    """Rule: "A constant image is clipped to 0..255"."""
    return np.clip(values, 0, 255)


def stretched(values: np.ndarray) -> np.ndarray:
    """Rule: "min–max over the image to 0..255 [...] in float"; float64 [...] to 0..255."""
    low, high = values.min(), values.max()
    return (values - low) / (high - low) * 255


def used_channels(channels: list[np.ndarray]) -> list[int]:
    """Rule: "channels that are all zero are ignored"."""
    return [i for i, channel in enumerate(channels) if channel.any()]


def identical_count_as_one(a: np.ndarray, b: np.ndarray) -> bool:
    """Rule: "two: identical ones count as one"."""
    return bool(np.array_equal(a, b))


def third_channel(pixels: np.ndarray) -> np.ndarray:
    """Rule: "H×W×2 is read as R,G": blue is zero."""
    return np.zeros(pixels.shape[:2], pixels.dtype)


def without_alpha(pixels: np.ndarray) -> np.ndarray:
    """Rule: "alpha is dropped": the fourth channel, before anything is measured."""
    return pixels[:, :, :3]


def two_channels(a: np.ndarray, b: np.ndarray, byte: Callable) -> tuple[np.ndarray, np.ndarray]:
    """Rule: "else each is min–maxed on its own"."""
    return byte(a), byte(b)


def three_channels(channels: list[np.ndarray], byte: Callable) -> np.ndarray:
    """Rule: "three: min–maxed jointly"."""
    return byte(np.stack(channels, axis=-1))


@dataclass(frozen=True)
class ReadingRules:
    """The rules in force; ``replace(READING_RULES, name=broken)`` breaks exactly one of them."""

    truncated: Callable = truncated
    constant: Callable = constant
    stretched: Callable = stretched
    used_channels: Callable = used_channels
    identical_count_as_one: Callable = identical_count_as_one
    third_channel: Callable = third_channel
    without_alpha: Callable = without_alpha
    two_channels: Callable = two_channels
    three_channels: Callable = three_channels


READING_RULES = ReadingRules()


def rgb_from_pixels(pixels: np.ndarray, rules: ReadingRules = READING_RULES) -> np.ndarray:
    """Uint8 [H, W, 3] RGB from numbers of any kind, [H, W] or [H, W, 1 to 4].

    Raises
    ------
    ValueError : on pixels that are not finite, an image with nothing but zeros (upstream says so of
        colour only; a grey frame without a count is no image either), or a shape that is none of
        these.
    """
    if not np.isfinite(pixels).all():
        raise ValueError("pixels are not finite")
    if not pixels.any():
        raise ValueError("all pixels are zero")

    def byte(values: np.ndarray) -> np.ndarray:
        values = values.astype(np.float64)
        same = values.min() == values.max()
        return rules.truncated(rules.constant(values) if same else rules.stretched(values))

    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if pixels.ndim == 2:
        return np.stack([byte(pixels)] * 3, axis=-1)
    if pixels.ndim != 3 or not 2 <= pixels.shape[2] <= 4:
        raise ValueError(f"not an image: shape {pixels.shape}")
    if pixels.shape[2] == 2:
        pixels = np.dstack([pixels, rules.third_channel(pixels)])
    channels = list(np.moveaxis(rules.without_alpha(pixels), -1, 0))[:3]

    used = rules.used_channels(channels)
    if not used:
        raise ValueError("all channels are zero")
    if len(used) == 1:
        return np.stack([byte(channels[used[0]])] * 3, axis=-1)
    if len(used) == 3:
        return rules.three_channels(channels, byte)
    first, second = used
    if rules.identical_count_as_one(channels[first], channels[second]):
        return np.stack([byte(channels[first])] * 3, axis=-1)
    rgb = np.zeros((*channels[0].shape, 3), np.uint8)
    rgb[:, :, first], rgb[:, :, second] = rules.two_channels(
        channels[first], channels[second], byte
    )
    return rgb
