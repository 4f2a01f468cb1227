"""The training image with its annotation and with what the model finds in it, side by side.

May import torch through the model; NumPy, and the runtime's pure functions.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.files import atomic_path
from cellseg1_rt.formats import overlay_from_labels
from cellseg1_rt.model.torch_backend import TorchBackend
from cellseg1_rt.runtime.pipeline import segment_rgb

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

    from cellseg1_rt.settings import InferenceSettings
    from cellseg1_rt.train.lora_inputs import TrainingImage

__all__ = ["write_preview"]

GAP_PX = 8
TITLE_PX = 28


def write_preview(path: Path, sam: Sam, image: TrainingImage, settings: InferenceSettings) -> int:
    """Segment a training image and draw it beside its annotation, as a PNG.

    It was trained on, so this shows that training went well, not how good the model is elsewhere.

    Parameters
    ----------
    path : the picture.
    sam : the trained model, in eval mode.
    image : an image that it was trained on.
    settings : how it is segmented.

    Returns
    -------
    How many cells were found.
    """
    backend = TorchBackend(sam)
    found = segment_rgb(image.rgb, backend, settings, backend.prompts_at_once)
    annotated = int(image.labels.max())
    panels = [
        _panel(image.rgb, image.labels, f"annotated: {annotated}"),
        _panel(image.rgb, found.labels, f"found: {len(found.cells)}"),
    ]
    gap = np.full((panels[0].shape[0], GAP_PX, 3), 255, np.uint8)
    with atomic_path(path) as temporary:
        cv2.imwrite(str(temporary), np.hstack([panels[0], gap, panels[1]])[..., ::-1])
    return len(found.cells)


def _panel(rgb: NDArray[np.uint8], labels: NDArray[np.generic], title: str) -> NDArray[np.uint8]:
    """An overlay under a title, RGB."""
    strip = np.full((TITLE_PX, rgb.shape[1], 3), 255, np.uint8)
    at, ink = (6, TITLE_PX - 9), (60, 60, 60)
    cv2.putText(strip, title, at, cv2.FONT_HERSHEY_SIMPLEX, 0.5, ink, 1, cv2.LINE_AA)
    return np.vstack([strip, overlay_from_labels(rgb, labels)])
