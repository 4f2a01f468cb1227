"""Pixel sizes in micrometres, from units and from the tags of a TIFF file.

A size is taken only where its unit is known and it can be a microscope's; a wrong size is worse
than none, since tiling resamples by it. Imports the standard library; tifffile for types only.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPage

__all__ = ["checked_pixel_size", "pixel_size_from_tiff", "um_per_unit"]

_UM_PER_UNIT = {
    "nm": 1e-3,
    "nanometer": 1e-3,
    "um": 1.0,
    "\u00b5m": 1.0,  # micro sign
    "\u03bcm": 1.0,  # Greek mu
    "\\u00b5m": 1.0,  # as ImageJ escapes it
    "micron": 1.0,
    "microns": 1.0,
    "micrometer": 1.0,
    "mm": 1e3,
    "millimeter": 1e3,
}
_UM_PER_RESOLUTION_UNIT = {2: 25_400.0, 3: 10_000.0}  # inch, centimetre

# Resolutions per inch or cm are often a program's default (72, 96, 150, 300, 600 dpi). Those are
# all coarser than 25 um a pixel (1,016 dpi), a microscope is finer.
_COARSEST_TRUSTED_UM = 25.0


def checked_pixel_size(y_um: float, x_um: float) -> tuple[float, float] | None:
    """(y, x) as floats, or None unless both are finite and above 0."""
    if all(math.isfinite(um) and um > 0 for um in (y_um, x_um)):
        return float(y_um), float(x_um)
    return None


def um_per_unit(unit: str) -> float | None:
    """Micrometres in a unit of length, by its name or sign; None if it is not known."""
    return _UM_PER_UNIT.get(unit.lower())


def pixel_size_from_tiff(tif: TiffFile, page: TiffPage) -> tuple[float, float] | None:
    """Micrometres a pixel (y, x): Aperio's, ImageJ's, or from the resolution tags; else None."""
    if tif.is_svs:
        return _from_aperio(page.description)
    x_per_unit, y_per_unit = _resolution(page, "XResolution"), _resolution(page, "YResolution")
    if not x_per_unit or not y_per_unit:
        return None
    metadata = tif.imagej_metadata
    if metadata is not None:
        unit = str(metadata.get("unit", "")).lower()
        um = um_per_unit(unit)
        if um is None or str(metadata.get("yunit", unit)).lower() != unit:
            return None
        return checked_pixel_size(um / y_per_unit, um / x_per_unit)
    um = _UM_PER_RESOLUTION_UNIT.get(int(page.resolutionunit))
    if um is None:
        return None
    size = checked_pixel_size(um / y_per_unit, um / x_per_unit)
    return size if size is not None and max(size) < _COARSEST_TRUSTED_UM else None


def _from_aperio(description: str) -> tuple[float, float] | None:
    """From ``MPP = 0.25`` between bars."""
    for part in description.split("|"):
        name, _, value = part.partition("=")
        if name.strip() == "MPP":
            try:
                return checked_pixel_size(float(value), float(value))
            except ValueError:
                return None
    return None


def _resolution(page: TiffPage, name: str) -> float | None:
    tag = page.tags.get(name)
    if tag is None or not isinstance(tag.value, tuple) or len(tag.value) != 2:
        return None
    pixels, units = tag.value
    return float(pixels) / float(units) if units else None
