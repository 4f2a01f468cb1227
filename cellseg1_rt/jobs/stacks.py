"""Images of several planes, each plane made an image of the job.

Only what may hold several planes is opened, for its metadata alone. What cannot be opened stays as
it is, one image, and fails when it is its turn. Imports the standard library and the readers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from cellseg1_rt.errors import CellSeg1RtError, MissingExtraError
from cellseg1_rt.formats import IMAGE_SUFFIXES
from cellseg1_rt.formats.plane_names import Listing
from cellseg1_rt.formats.planes import PlaneAddress
from cellseg1_rt.formats.stacks import STACK_SUFFIXES, list_planes
from cellseg1_rt.jobs.inputs import Input

__all__ = ["split_stacks"]

_THREADS = 8  # which mostly wait for a drive or a network share


def split_stacks(inputs: Iterable[Input], tell: Callable[[str], None]) -> list[Input]:
    """The inputs in their order, with each stack, series or plate replaced by its planes.

    Parameters
    ----------
    inputs : files and Zarr folders.
    tell : called with a line for each file in which something had to be guessed.

    Raises
    ------
    MissingExtraError : if the library that reads an input's kind is not installed.
    """
    inputs = list(inputs)
    found: list[Input] = []
    with ThreadPoolExecutor(_THREADS) as pool:
        listings = pool.map(_listing_of, (image for image in inputs if _may_hold_several(image)))
        for image in inputs:
            if not _may_hold_several(image):
                found.append(image)
                continue
            listing = next(listings)
            found.extend(_planes_of(image, listing))
            if listing is not None and listing.note:
                tell(listing.note)
    return found


def _may_hold_several(image: Input) -> bool:
    """By its name, so that of a million pictures none is looked at."""
    name = image.path.name.lower()
    return not name.endswith(IMAGE_SUFFIXES) or name.endswith(STACK_SUFFIXES)


def _listing_of(image: Input) -> Listing | None:
    """None where the planes cannot be told."""
    try:
        return list_planes(image.path)
    except MissingExtraError:
        raise
    except (CellSeg1RtError, OSError):  # told when it is read, as this image's own failure
        return None


def _planes_of(image: Input, listing: Listing | None) -> list[Input]:
    if listing is None or listing.planes == (PlaneAddress(),):
        return [image]
    return [
        Input(image.path, f"{image.relative}/{plane.name}" if plane.name else image.relative, plane)
        for plane in listing.planes
    ]
