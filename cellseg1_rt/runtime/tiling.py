"""Whether an image is cut into tiles, and how large they are: the choice, the bundle, the image.

Imports numpy only.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, Literal

from cellseg1_rt.contract import Manifest
from cellseg1_rt.errors import BundleError, ConfigError, InputError
from cellseg1_rt.runtime.candidates import EDGE_PX
from cellseg1_rt.runtime.tiles import TilePlan, plan_tiles

__all__ = ["TileChoice", "Tiling", "checked_tile"]

TileChoice = Literal["auto", "none"] | int
"""``auto``, ``none``, or the side of a tile in px of the image."""

_SMALLEST_PX, _LARGEST_PX = 64, 8192
_UNKNOWN_PX = 512  # a tile, where nothing is known of the training image
_UNKNOWN_LIMIT_PX = 1024  # the longer side up to which an image is then segmented whole
_LIMIT_SHARE = 1.5  # the same in sides of the training image


def checked_tile(tile: str | int) -> TileChoice:
    """The choice from what a person gave.

    Raises
    ------
    ConfigError : on anything but ``auto``, ``none`` and a side from 64 to 8,192 px.
    """
    if tile in ("auto", "none"):
        return tile  # type: ignore[return-value]
    side = int(tile) if isinstance(tile, int) or tile.isdecimal() else 0
    if _SMALLEST_PX <= side <= _LARGEST_PX:
        return side
    raise ConfigError(
        "not a tile",
        where="tile",
        got=repr(tile),
        expected=f"auto, none, or {_SMALLEST_PX} to {_LARGEST_PX:,} px",
    )


@dataclass(frozen=True)
class Tiling:
    """How images are cut: a choice, and what the bundle tells of the image it was trained on.

    Attributes
    ----------
    choice : what was asked for.
    model_px : side S of the model's input.
    training_px : longer side of the training image; None where it is not known.
    training_um : its micrometres a pixel, the geometric mean of both axes; None likewise.
    cell_px : the median diameter of its cells; None likewise.
    """

    choice: TileChoice
    model_px: int
    training_px: int | None = None
    training_um: float | None = None
    cell_px: float | None = None

    @classmethod
    def of_bundle(cls, manifest: Manifest, choice: str | int) -> Tiling:
        """A choice for a bundle; what is known of the training image is in its provenance.

        Raises
        ------
        ConfigError : if the choice is none.
        BundleError : if the provenance is not what ``train`` writes.
        """
        provenance = manifest.provenance
        try:
            size = _told(provenance, "training_image_size_px")
            um = _told(provenance, "training_pixel_size_um")
            images = _told(provenance, "training_images")
            if not isinstance(images, list):  # ``pretrain`` counts its images and lists none
                images = []
            cells = [image["cell_diameter_px"] for image in images if "cell_diameter_px" in image]
            return cls(
                checked_tile(choice),
                manifest.image_size,
                None if size is None else int(max(size)),
                None if um is None else math.sqrt(float(um[0]) * float(um[1])),
                float(max(cells)) if cells else None,
            )
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise BundleError(
                "what the manifest tells of the training image has the wrong form",
                where="provenance",
                got=error,
                fix="export the bundle again",
            ) from error

    def plan(
        self,
        shape: tuple[int, int],
        pixel_size_um: tuple[float, float] | None = None,
        where: object = "image",
    ) -> TilePlan | None:
        """The tiles of an image; None where it is to be segmented whole.

        Where both pixel sizes are known, a tile covers as many micrometres as the training image,
        and the model's own resizing brings it to the training image's scale. Tiles overlap by a
        quarter, or by two median cells of the training image and both edges if that is more, and by
        half at most.

        Parameters
        ----------
        shape : (height, width), px.
        pixel_size_um : micrometres a pixel (y, x).
        where : what to call the image in messages.

        Raises
        ------
        InputError : if the image's pixels are so much larger or smaller than the training image's
            that no tile fits.
        """
        if self.choice == "none":
            return None
        scale = 1.0 if self.choice != "auto" else self._scale(pixel_size_um)
        if self.choice == "auto":
            tile = round((self.training_px or _UNKNOWN_PX) * scale)
            limit = _LIMIT_SHARE * tile if self.training_px else _UNKNOWN_LIMIT_PX * scale
        else:
            tile = limit = self.choice
        if max(shape) <= limit:
            return None
        if not _SMALLEST_PX <= tile <= _LARGEST_PX:
            raise InputError(
                "pixels of too different a size than the training image's",
                where=where,
                got=f"{1 / scale:.3g} times as large, so a tile would have {tile} px",
                expected=f"{_SMALLEST_PX} to {_LARGEST_PX:,} px a tile",
                fix="correct the pixel size, or pass a tile's side in px",
            )
        # The rule for crops, in px of the model's input: what is near a border is known as little.
        edge = max(1, round(EDGE_PX * tile / self.model_px))
        overlap = max(math.ceil(tile / 4), math.ceil(2 * (self.cell_px or 0) * scale) + 2 * edge)
        return plan_tiles(shape, tile, min(overlap, tile // 2), edge)

    def _scale(self, pixel_size_um: tuple[float, float] | None) -> float:
        """Pixels of the image that are as long as one of the training image."""
        if pixel_size_um is None or self.training_um is None:
            return 1.0
        return self.training_um / math.sqrt(pixel_size_um[0] * pixel_size_um[1])


def _told(provenance: dict[str, Any], name: str) -> Any:
    """A value of the provenance, which is text there and JSON in it; None if it is not told."""
    return None if name not in provenance else json.loads(provenance[name])
