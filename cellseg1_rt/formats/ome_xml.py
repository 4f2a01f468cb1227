"""What OME-XML says of an image beyond its axes: name, channel names and pixel size.

Imports the standard library.
"""

from __future__ import annotations

from dataclasses import dataclass
from xml.etree import ElementTree

from cellseg1_rt.formats.pixel_size import checked_pixel_size, um_per_unit

__all__ = ["OmeImage", "images_in_ome"]


@dataclass(frozen=True)
class OmeImage:
    """One ``Image`` element.

    Attributes
    ----------
    name : empty where it has none.
    channels : a name each, empty where a channel has none.
    pixel_size_um : micrometres a pixel (y, x), or None where the element does not say.
    """

    name: str
    channels: tuple[str, ...]
    pixel_size_um: tuple[float, float] | None


def images_in_ome(xml: str) -> list[OmeImage]:
    """The images with pixels in OME-XML, in their order; none if it cannot be parsed."""
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError:
        return []
    images = []
    for image in root.iterfind(".//{*}Image"):
        pixels = image.find("{*}Pixels")
        if pixels is not None:
            names = tuple(each.get("Name", "") for each in pixels.iterfind("{*}Channel"))
            images.append(OmeImage(image.get("Name", ""), names, _size_of(pixels)))
    return images


def _size_of(pixels: ElementTree.Element) -> tuple[float, float] | None:
    sizes: list[float] = []
    for axis in "YX":
        # The schema's default unit is the micrometre.
        um = um_per_unit(pixels.get(f"PhysicalSize{axis}Unit", "um"))
        try:
            size = float(pixels.get(f"PhysicalSize{axis}", "nan"))
        except ValueError:
            return None
        if um is None:
            return None
        sizes.append(size * um)
    return checked_pixel_size(sizes[0], sizes[1])
