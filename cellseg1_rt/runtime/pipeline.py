"""CellSeg1's inference, in order, over any backend: pure functions on one RGB image.

Crops, prompts and candidates first (``find_candidates``, which runs the model), then NMS, clean-up
and painting (``result_from_candidates``, which does not). Imports numpy only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.backends.base import Backend
from cellseg1_rt.errors import ConfigError
from cellseg1_rt.geometry import Crop, crops_of_image
from cellseg1_rt.results import Result
from cellseg1_rt.runtime.candidates import Found, candidates_of_crop, passes_thresholds
from cellseg1_rt.runtime.nms import suppress
from cellseg1_rt.runtime.paint import paint
from cellseg1_rt.runtime.prompts import input_of_crop, prompt_crop
from cellseg1_rt.runtime.regions import RunMasks, clean
from cellseg1_rt.settings import InferenceSettings

__all__ = [
    "Candidates",
    "find_candidates",
    "masks_from_candidates",
    "result_from_candidates",
    "segment_rgb",
]

PROMPT_BATCH = 64
"""Prompts per call of the decoder: 64 MB of keys at 512 px, as large as SAM's own default."""

CROP_BATCH = 5
"""Crops per call of the encoder: an image and its four quarters."""


@dataclass(frozen=True)
class Candidates:
    """All candidates of an image, before any NMS: ask for labels at other thresholds at no cost.

    Attributes
    ----------
    found : their crops, scores, stabilities, prompts and masks, in the order of crops, then
        prompts.
    image_size : (height, width).
    floors : what they were found with: what is below its thresholds was not kept.
    settings : the thresholds of ``result`` where a call names none.
    """

    found: Found
    image_size: tuple[int, int]
    floors: InferenceSettings
    settings: InferenceSettings

    def __len__(self) -> int:
        return len(self.found)

    def mask(self, index: int) -> NDArray[np.bool_]:
        """One candidate's mask in the image, bool [H, W], before any clean-up."""
        x0, y0, x1, y1 = self.found.masks.box[index].tolist()
        mask = np.zeros(self.image_size, bool)
        mask[y0 : y1 + 1, x0 : x1 + 1] = self.found.masks.pixels(index)
        return mask

    def result(
        self,
        *,
        score: float | None = None,
        stability: float | None = None,
        nms: float | None = None,
        min_area: int | None = None,
        max_area_ratio: float | None = None,
    ) -> Result:
        """Labels and cells at other thresholds, without running the model.

        ``nms`` sets all NMS thresholds. None keeps the value of ``settings``.

        Raises
        ------
        ConfigError : if a threshold asks for candidates below the floors.
        """
        settings = self.settings.updated(
            score=score,
            stability=stability,
            crop_nms=nms,
            box_nms=nms,
            min_area=min_area,
            max_area_ratio=max_area_ratio,
        )
        return result_from_candidates(self, settings)

    def labels(self, **thresholds: Any) -> NDArray[np.uint16] | NDArray[np.uint32]:
        """The label map [H, W] of ``result`` at these thresholds."""
        return self.result(**thresholds).labels


def segment_rgb(
    rgb: NDArray[np.uint8],
    backend: Backend,
    settings: InferenceSettings,
    prompt_batch: int = PROMPT_BATCH,
) -> Result:
    """Segment one image.

    Parameters
    ----------
    rgb : uint8 [H, W, 3], normalised (``rgb_from_pixels``).
    backend : a loaded bundle.
    settings : thresholds, grid and crops.
    prompt_batch : most prompts in one call of the decoder.
    """
    candidates = find_candidates(rgb, backend, settings, prompt_batch)
    return result_from_candidates(candidates, settings)


def find_candidates(
    rgb: NDArray[np.uint8],
    backend: Backend,
    settings: InferenceSettings,
    prompt_batch: int = PROMPT_BATCH,
) -> Candidates:
    """Rules 1 to 3: crops, prompts, candidates."""
    height, width = rgb.shape[:2]
    crops = crops_of_image(height, width, settings.crops)
    parts: list[Found] = []
    for index, (crop, embedding) in enumerate(zip(crops, _embed(rgb, crops, backend), strict=True)):
        survivors = prompt_crop(
            backend,
            embedding,
            crop,
            points_per_side=settings.points_per_side,
            score=settings.score,
            prompt_batch=prompt_batch,
        )
        parts.append(
            candidates_of_crop(
                survivors, crop, index, (height, width), backend.image_size, settings
            )
        )
    return Candidates(Found.concatenate(parts), (height, width), floors=settings, settings=settings)


def _embed(rgb: NDArray[np.uint8], crops: Sequence[Crop], backend: Backend) -> Iterator[Any]:
    """An embedding a crop, ``CROP_BATCH`` of them at a time."""
    for first in range(0, len(crops), CROP_BATCH):
        inputs = [
            input_of_crop(rgb, crop, backend.image_size)
            for crop in crops[first : first + CROP_BATCH]
        ]
        images, sizes = zip(*inputs, strict=True)
        yield from backend.encode(np.stack(images), np.array(sizes, np.int32))


def result_from_candidates(candidates: Candidates, settings: InferenceSettings) -> Result:
    """Rules 4 to 7 at thresholds no lower than the candidates' own.

    Raises
    ------
    ConfigError : if a threshold, the grid or the crops ask for what was not kept.
    """
    return paint(*masks_from_candidates(candidates, settings), candidates.image_size)


def masks_from_candidates(
    candidates: Candidates, settings: InferenceSettings
) -> tuple[Found, RunMasks]:
    """Rules 4 to 6: the candidates that are left, and their cleaned masks.

    Raises
    ------
    ConfigError : if a threshold, the grid or the crops ask for what was not kept.
    """
    _require_floors(candidates.floors, settings)
    found, image_size = candidates.found, candidates.image_size
    passed = passes_thresholds(
        found.score, found.stability, found.masks.area_px, image_size, settings
    )
    found = _suppressed_in_crops(found.take(np.flatnonzero(passed)), settings)
    if settings.crops > 0:
        rank = found.score * found.stability
        found = found.take(suppress(found.masks, rank, settings.crop_nms))
    found = replace(found, masks=found.masks.on_host())
    masks = clean(found.masks, settings.min_area, image_size)
    if settings.min_area > 0:
        found, masks = _suppressed_once_more(found, masks, settings, image_size)
    return found, masks


def _suppressed_in_crops(found: Found, settings: InferenceSettings) -> Found:
    """Rule 4: each crop's candidates, best score first."""
    kept = [np.zeros(0, np.int64)]
    for crop in np.unique(found.crop):
        index = np.flatnonzero(found.crop == crop)
        of_crop = found.take(index)
        kept.append(index[suppress(of_crop.masks, of_crop.score, settings.crop_nms)])
    return found.take(np.concatenate(kept))


def _suppressed_once_more(
    found: Found, masks: RunMasks, settings: InferenceSettings, image_size: tuple[int, int]
) -> tuple[Found, RunMasks]:
    """The NMS of rule 6, which prefers masks that needed no cleaning, and the area again."""
    # Boxes are the cleaned masks', IoU is the original masks': upstream rebuilds one but not the
    # other, and its published figures were made that way.
    unchanged = (~masks.changed).astype(np.float32)
    threshold = max(settings.box_nms, settings.crop_nms)
    order = suppress(found.masks, unchanged, threshold, boxes=masks.box)
    found, masks = found.take(order), masks.take(order)
    passed = passes_thresholds(found.score, found.stability, masks.area_px, image_size, settings)
    index = np.flatnonzero(passed)
    return found.take(index), masks.take(index)


def _require_floors(floors: InferenceSettings, asked: InferenceSettings) -> None:
    for name in ("points_per_side", "crops", "stability_offset"):
        if getattr(floors, name) != getattr(asked, name):
            raise ConfigError(
                "cannot change on held candidates",
                where=name,
                got=getattr(asked, name),
                expected=getattr(floors, name),
                fix="find candidates anew with this setting",
            )
    for name in ("score", "stability"):
        if getattr(asked, name) < getattr(floors, name):
            raise ConfigError(
                "below the floor the candidates were found with",
                where=name,
                got=getattr(asked, name),
                expected=f"at least {getattr(floors, name)}",
                fix=f"find candidates with a lower {name}",
            )
    ceiling = floors.max_area_ratio
    if ceiling > 0 and not 0 < asked.max_area_ratio <= ceiling:
        raise ConfigError(
            "above the ceiling the candidates were found with",
            where="max_area_ratio",
            got=asked.max_area_ratio or "no limit",
            expected=f"at most {ceiling}",
            fix="find candidates with a higher max_area_ratio, or 0 for none",
        )
