"""What lies where in a TIFF file: its images, their axes, and the pages of each plane's channels.

Axes come from OME-XML, ImageJ's and tifffile's own descriptions, through tifffile. Pixels are not
read here. Imports tifffile.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from tifffile import PHOTOMETRIC, TiffFile, TiffPageSeries

from cellseg1_rt.errors import InputError
from cellseg1_rt.formats.ome_xml import OmeImage, images_in_ome
from cellseg1_rt.formats.tiff_structure import cut_off_part

__all__ = ["Place", "TiffScene", "cut_off", "open_tiff", "scenes_of_tiff"]

# tifffile logs what it finds odd. Where nobody configured logging, Python would print that to
# stderr, in front of the one line that says it better.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

_AS_STORED = (PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.MINISWHITE, PHOTOMETRIC.RGB, PHOTOMETRIC.PALETTE)
_ALPHA = (1, 2)  # ExtraSamples: associated, unassociated
_SLIDES = ("svs", "ndpi", "philips", "qptiff")
_BESIDE_A_SLIDE = ("Thumbnail", "Label", "Macro", "Map")  # as tifffile names them
Axes = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Place:
    """Where one channel of a plane is stored.

    Attributes
    ----------
    page : counted in the series.
    separate, depth : within the page: which of the separately stored samples, and which slice.
    sample : which of the samples that lie side by side.
    """

    page: int
    separate: int
    depth: int
    sample: int


@dataclass(frozen=True)
class TiffScene:
    """One image of a TIFF file, of any number of planes.

    Attributes
    ----------
    series : tifffile's; its file must stay open.
    axes : letter and length of all axes, in the file's order; Y and X are among them.
    ome : what OME-XML says of it; None where there is none.
    """

    series: TiffPageSeries
    axes: Axes
    ome: OmeImage | None

    @property
    def stacked(self) -> Axes:
        """The axes along which planes are stacked: neither channels nor of length 1."""
        return tuple((axis, n) for axis, n in self.axes if _is_stacked(axis, n))

    @property
    def channel_axis(self) -> tuple[str, int]:
        """Letter and length of the axis of channels, alpha included; length 1 where none is."""
        every = [(axis, n) for axis, n in self.axes if axis in "SC" and n > 1]
        return every[0] if every else ("C", 1)

    @property
    def channels(self) -> int:
        """How many there are, without alpha."""
        page = self.series.keyframe
        axis, count = self.channel_axis
        if axis != "S":
            return count
        if not self.is_as_stored:  # other colour models become RGB
            return 3
        extra = page.extrasamples
        fourth = page.photometric == PHOTOMETRIC.RGB and count == 4
        has_alpha = len(extra) > 0 and extra[-1] in _ALPHA and count == page.samplesperpixel
        return count - 1 if fourth or has_alpha else count

    @property
    def is_as_stored(self) -> bool:
        """Whether its samples are intensities, RGB or indices, and not of another colour model."""
        return self.series.keyframe.photometric in _AS_STORED

    @property
    def is_page_by_page(self) -> bool:
        """Whether each channel of a plane is a page, or a part of one, as nearly always."""
        separate, depth, height, width, beside = self.series.keyframe.shaped
        before, after = self._around()
        samples = math.prod(n for _, n in before) * height * width * beside
        return (
            self.series.transform is None
            and "YX" in "".join(axis for axis, _ in self.axes)
            and math.prod(n for _, n in after) == beside
            and not any(_is_stacked(axis, n) for axis, n in after)
            and math.prod(n for _, n in before) % (separate * depth) == 0
            and math.prod(n for _, n in self.axes) == samples
        )

    def places(self, indices: tuple[int, ...]) -> list[Place]:
        """Where the channels of the plane at ``indices`` of the stacked axes are stored.

        For images that are stored page by page: samples lie in the pages in the order of the axes.
        """
        separate, depth = self.series.keyframe.shaped[:2]
        before, after = self._around()
        places = []
        for channel in range(self.channels):
            left = iter(indices)
            flat = 0
            for axis, length in before:
                is_channel = axis in "SC" and length > 1
                index = channel if is_channel else next(left) if _is_stacked(axis, length) else 0
                flat = flat * length + index
            page, rest = divmod(flat, separate * depth)
            beside = channel if any(n > 1 for _, n in after) else 0
            places.append(Place(page, *divmod(rest, depth), beside))
        return places

    def _around(self) -> tuple[Axes, Axes]:
        """The axes before Y, and those after X."""
        letters = [axis for axis, _ in self.axes]
        return self.axes[: letters.index("Y")], self.axes[letters.index("X") + 1 :]


def _is_stacked(axis: str, length: int) -> bool:
    return length > 1 and axis not in "SCYX"


def cut_off(path: Path, got: str) -> InputError:
    """The error for a file of which ``got`` is missing."""
    return InputError(
        "this TIFF file is cut off",
        where=path,
        got=got,
        expected="a whole TIFF file",
        fix="copy or save it again",
    )


@contextmanager
def open_tiff(path: Path) -> Iterator[TiffFile]:
    """A file whose chain of directories is whole.

    Raises
    ------
    InputError : if it is cut off.
    Exception : whatever tifffile raises on a file that is damaged otherwise.
    """
    status = path.stat()
    missing = _cut_off_part(path, status.st_size, status.st_mtime_ns)
    if missing is not None:
        raise cut_off(path, missing)
    with TiffFile(path) as tif:
        yield tif


@lru_cache(maxsize=64)
def _cut_off_part(path: Path, size_bytes: int, mtime_ns: int) -> str | None:
    """Looked at once for each state of a file: every plane of a stack opens it again."""
    return cut_off_part(path)


def scenes_of_tiff(tif: TiffFile, path: Path) -> list[TiffScene]:
    """The images of a file; smaller levels of a pyramid, masks and a slide's labels are none.

    Raises
    ------
    InputError : if there is none, one is spread over several files, its description counts planes
        that are not there, or its axes are not those of planes.
    """
    every = [series for series in tif.series if _is_image(series)]
    if not every or any(series.is_multifile for series in every):
        raise InputError(
            "an image spread over several files" if every else "no image in this file",
            where=path,
            got=f"{len(tif.pages)} pages",
            expected="images that are whole in one file",
            fix="save it as one OME-TIFF" if every else None,
        )
    images = int((tif.imagej_metadata or {}).get("images", 1))
    if images > 1 and every[0].kind != "imagej":
        raise cut_off(path, f"fewer planes than the {images} that its description counts")
    told = images_in_ome(tif.ome_metadata) if tif.ome_metadata else []
    omes: list[OmeImage | None] = list(told) if len(told) == len(every) else [None] * len(every)
    if told and len(told) != len(every):  # which is which cannot be told, but for what they share
        shared = {image.pixel_size_um for image in told}
        size = shared.pop() if len(shared) == 1 else None
        omes = [OmeImage("", (), size)] * len(every)
    return [_scene_of(series, ome, path) for series, ome in zip(every, omes, strict=True)]


def _is_image(series: TiffPageSeries) -> bool:
    beside = series.kind in _SLIDES and series.name in _BESIDE_A_SLIDE
    return not (beside or series.keyframe.is_reduced or series.keyframe.is_mask)


def _scene_of(series: TiffPageSeries, ome: OmeImage | None, path: Path) -> TiffScene:
    pairs = zip(series.get_axes(squeeze=False), series.get_shape(squeeze=False), strict=True)
    axes = tuple((axis, int(length)) for axis, length in pairs)
    letters = [axis for axis, _ in axes]
    if [letters.count(axis) for axis in "YX"] != [1, 1] or _channel_axes(axes) > 1:
        kept = [(axis, n) for axis, n in axes if n > 1 or axis in "YX"]
        raise InputError(
            "axes that are not those of planes",
            where=path,
            got=f"axes {''.join(axis for axis, _ in kept)}, shape {tuple(n for _, n in kept)}",
            expected="Y, X and at most one axis of channels",
            fix="save it as ImageJ or OME-TIFF with its axes named",
        )
    return TiffScene(series, axes, ome)


def _channel_axes(axes: Axes) -> int:
    return sum(axis in "SC" and length > 1 for axis, length in axes)
