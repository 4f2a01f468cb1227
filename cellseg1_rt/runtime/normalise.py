"""From pixels of any kind to the uint8 RGB the model reads: CellSeg1's channel and min-max rules.

Does not resize, pad or subtract means (the encoder graph does). Imports numpy only.

The rules, matched to the published code: a grey image is stretched from its minimum and maximum to
0..255. Of a colour image, channels that are zero everywhere do not count; one that is left is
treated as grey; two are stretched each on its own unless they are identical, then as grey; three
are stretched together. The stretch is in floating point and then truncated, not rounded. A constant
is clipped to 0..255 instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.errors import InputError

__all__ = ["PixelStats", "rgb_from_pixels", "stats_from_pixels"]

_Range = tuple[int | float, int | float]


@dataclass(frozen=True)
class PixelStats:
    """What the stretch of a plane depends on, so that a large plane can be measured in blocks.

    Attributes
    ----------
    ranges : lowest and highest value of each channel, 1 to 3 of them, in the pixels' own units.
    twins : pairs of channels (lower, higher) that are identical everywhere while the remaining one,
        if there is one, is zero everywhere.
    """

    ranges: tuple[_Range, ...]
    twins: frozenset[tuple[int, int]]

    def merged(self, other: PixelStats) -> PixelStats:
        """The statistics of both blocks together.

        Raises
        ------
        ValueError : if the numbers of channels differ.
        """
        both = zip(self.ranges, other.ranges, strict=True)
        ranges = tuple((min(a[0], b[0]), max(a[1], b[1])) for a, b in both)
        return PixelStats(ranges, self.twins & other.twins)


def stats_from_pixels(
    pixels: NDArray[Any], *, origin: tuple[int, int] = (0, 0), where: object = "image"
) -> PixelStats:
    """Measure a plane, or a block of one.

    Parameters
    ----------
    pixels : as for ``rgb_from_pixels``.
    origin : row and column of the block's first pixel in its plane, for messages.
    where : what to call the image in messages.

    Raises
    ------
    InputError : for another shape or dtype, no pixels, or values that are not finite.
    """
    planes = _channels(pixels, where)
    if planes.dtype.kind == "f":
        _require_finite(planes, origin, where)
    channels = [planes[..., c] for c in range(planes.shape[2])]
    ranges = tuple((channel.min().item(), channel.max().item()) for channel in channels)
    used = [c for c, extremes in enumerate(ranges) if extremes != (0, 0)]
    twins = {
        (a, b)
        for a in range(len(channels))
        for b in range(a + 1, len(channels))
        if set(used) <= {a, b} and np.array_equal(channels[a], channels[b])
    }
    return PixelStats(ranges, frozenset(twins))


def rgb_from_pixels(
    pixels: NDArray[Any], *, stats: PixelStats | None = None, where: object = "image"
) -> NDArray[np.uint8]:
    """Turn an image into the uint8 RGB that the model was trained on.

    Parameters
    ----------
    pixels : bool, integer or float, any byte order and memory layout, not changed: [H, W] or
        [H, W, 1] grey; [H, W, 2] red and green; [H, W, 3] RGB; [H, W, 4] RGB and alpha, which is
        dropped.
    stats : of the whole plane, if ``pixels`` is a block of one; measured from ``pixels`` if None.
    where : what to call the image in messages.

    Returns
    -------
    uint8 [H, W, 3], RGB, 0..255, its own memory.

    Raises
    ------
    InputError : for another shape or dtype, no pixels, values that are not finite, or only zeros.
    """
    planes = _channels(pixels, where)
    if stats is None:
        stats = stats_from_pixels(pixels, where=where)
    if len(stats.ranges) != planes.shape[2]:
        raise InputError(
            "statistics of another image",
            where=where,
            got=f"{len(stats.ranges)} channels",
            expected=f"{planes.shape[2]} channels",
        )
    rgb = np.zeros((*planes.shape[:2], 3), np.uint8)
    used = [c for c, extremes in enumerate(stats.ranges) if extremes != (0, 0)]
    if not used:
        raise InputError(
            "an all-zero image",
            where=where,
            got=f"only zeros in shape {pixels.shape}",
            expected="at least one pixel above zero",
            fix="check the exposure and the channel",
        )
    if len(used) == 1 or (len(used) == 2 and tuple(used) in stats.twins):
        rgb[...] = _stretched(planes[..., used[0]], stats.ranges[used[0]])[..., np.newaxis]
    elif len(used) == 2:
        for channel in used:
            rgb[..., channel] = _stretched(planes[..., channel], stats.ranges[channel])
    else:
        lows, highs = zip(*stats.ranges, strict=True)
        rgb[...] = _stretched(planes, (min(lows), max(highs)))
    return rgb


def _channels(pixels: NDArray[Any], where: object) -> NDArray[Any]:
    """A view [H, W, C] with C from 1 to 3, in a dtype that can be subtracted."""
    if pixels.dtype.kind not in "buif":
        raise InputError(
            "pixels that are not real numbers",
            where=where,
            got=f"dtype {pixels.dtype}",
            expected="booleans, integers or floats",
        )
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and not 1 <= pixels.shape[2] <= 4):
        raise InputError(
            "not an image",
            where=where,
            got=f"an array of shape {pixels.shape}",
            expected="[H, W] or [H, W, C] with 1 to 4 channels last",
        )
    if pixels.size == 0:
        raise InputError(
            "an image without pixels",
            where=where,
            got=f"an array of shape {pixels.shape}",
            expected="at least 1 x 1 pixels",
        )
    if pixels.dtype.kind == "b":
        pixels = pixels.astype(np.uint8)
    return pixels[..., np.newaxis] if pixels.ndim == 2 else pixels[..., :3]


def _require_finite(planes: NDArray[Any], origin: tuple[int, int], where: object) -> None:
    finite = np.isfinite(planes)
    if finite.all():
        return
    row, column, channel = (int(i) for i in np.argwhere(~finite)[0])
    raise InputError(
        "values that are not finite",
        where=where,
        got=f"{finite.size - int(np.count_nonzero(finite)):,} of them, the first "
        f"({planes[row, column, channel]}) at row {row + origin[0]}, "
        f"column {column + origin[1]}, channel {channel}",
        expected="finite numbers",
        fix="replace NaN and infinity before saving",
    )


def _stretched(values: NDArray[Any], extremes: _Range) -> NDArray[np.uint8]:
    """``values`` from the range ``extremes`` to 0..255, truncated."""
    if values.dtype.kind == "u" and values.dtype.itemsize <= 2:
        # The same formula, once a grey level instead of once a pixel.
        levels = np.arange(int(np.iinfo(values.dtype).max) + 1)
        table = _truncated(levels, extremes)
        return np.asarray(table[values])
    return _truncated(values, extremes)


def _truncated(values: NDArray[Any], extremes: _Range) -> NDArray[np.uint8]:
    low, high = (float(value) for value in extremes)
    scaled = values.astype(np.float64)
    if low != high:
        if not np.isfinite(high - low):  # the range itself overflows; halving is exact there
            low, high, scaled = low / 2, high / 2, scaled / 2
        scaled = (scaled - low) / (high - low) * 255
    return np.clip(scaled, 0, 255).astype(np.uint8)
