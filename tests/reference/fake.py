"""A model made of given answers: the same scores and logits for the reference and the runtime.

A `Scene` says, for chosen prompts of chosen crops, which score the model gives and which logits it
should have at every pixel of the image. It finds low-resolution logits that become just these, and
it recognises the crop and the prompt it is asked about from what it is shown: the crop from the
image's colours, which hold the pixels' positions, and the prompt from its place in the grid. A
caller that cuts or scales differently is therefore not answered (score 0).

`FakeBackend` puts any such function behind the runtime's backend protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from reference.inference import crop_boxes
from reference.rules_prompts import Box, input_size

PATCH_PX = 16
NOTHING = -10.0
POINT_TOLERANCE_PX = 0.05

Predict = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Answer:
    """What the model says to one prompt.

    Attributes
    ----------
    prompt : place in the crop's grid, y outer and x inner.
    score : any float.
    logits : float [H, W], wanted at the image's pixels; only the crop's are used.
    crop : place in the order of the crops.
    low_res : float [4g, 4g], given to the caller as they are, instead of ``logits``.
    """

    prompt: int
    score: float
    logits: np.ndarray | None = None
    crop: int = 0
    low_res: np.ndarray | None = None


@dataclass(frozen=True)
class Scene:
    """A small world: an image size, a grid of prompts, and the answers to some of them.

    Attributes
    ----------
    image_hw : size of the image, both sides below 128 for the colours to tell positions apart
        (below 256 with ``step`` 1).
    answers : one for each prompt that is to be answered; all others get score 0 and no mask.
    image_size, points_per_side, crops : as in the settings.
    step : grey levels from one pixel to the next.
    checksum : add to every score a number that depends on every pixel the model was shown.
    """

    image_hw: tuple[int, int]
    answers: tuple[Answer, ...]
    image_size: int = 256
    points_per_side: int = 5
    crops: int = 0
    step: int = 2
    checksum: bool = False
    _low_res: dict[int, np.ndarray] = field(default_factory=dict, compare=False, repr=False)

    @property
    def image(self) -> np.ndarray:
        """Uint8 [H, W, 3]: red counts columns, green counts rows, blue is noise."""
        height, width = self.image_hw
        red, green = np.meshgrid(np.arange(width), np.arange(height))
        noise = np.random.default_rng(7).integers(0, 256, self.image_hw)
        return np.stack([self.step * red, self.step * green, noise], axis=-1).astype(np.uint8)

    def predict(self, resized: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scores float32 [N] and logits float32 [N, 4g, 4g] for a crop uint8 [h, w, 3]."""
        cells = self.image_size // PATCH_PX * 4
        scores = np.zeros(len(points), np.float32)
        logits = np.full((len(points), cells, cells), NOTHING, np.float32)
        crop = self._crop_shown(resized)
        boxes = [box for _, box in crop_boxes(self.image_hw, self.crops)]
        if crop not in boxes:
            return scores, logits
        for i, point in enumerate(points):
            prompt = self.prompt_at(point, resized.shape[:2])
            for number, answer in enumerate(self.answers):
                if boxes[answer.crop] == crop and answer.prompt == prompt:
                    scores[i] = answer.score + self._checksum(resized)
                    logits[i] = self._low_res_of(number, crop)
        return scores, logits

    def _checksum(self, resized: np.ndarray) -> float:
        weights = np.arange(resized.size).reshape(resized.shape) % 89
        return int((resized * weights).sum()) % 997 * 1e-5 if self.checksum else 0.0

    def _crop_shown(self, resized: np.ndarray) -> Box:
        if self.crops == 0:
            return 0, 0, self.image_hw[1], self.image_hw[0]
        first, last = resized[0, 0].astype(int), resized[-1, -1].astype(int)
        x0, y0 = first[:2] // self.step
        x1, y1 = last[:2] // self.step + 1
        return int(x0), int(y0), int(x1), int(y1)

    def prompt_at(self, point: np.ndarray, input_hw: tuple[int, int]) -> int | None:
        n = self.points_per_side
        place = np.array(point, float) * n / np.array(input_hw[::-1]) - 0.5
        ix, iy = (int(value) for value in np.round(place))
        off = np.abs(place - [ix, iy]) * np.array(input_hw[::-1]) / n
        inside = 0 <= ix < n and 0 <= iy < n
        return iy * n + ix if inside and off.max() <= POINT_TOLERANCE_PX else None

    def _low_res_of(self, number: int, crop: Box) -> np.ndarray:
        answer = self.answers[number]
        if answer.low_res is not None:
            return np.asarray(answer.low_res, np.float32)
        if number not in self._low_res:
            x0, y0, x1, y1 = crop
            self._low_res[number] = low_res_for(answer.logits[y0:y1, x0:x1], self.image_size)
        return self._low_res[number]


def low_res_for(wanted: np.ndarray, image_size: int) -> np.ndarray:
    """Float32 [4g, 4g] whose two bilinear steps give ``wanted`` float [h, w] at the crop's size.

    The steps are linear and separable, so the least-norm solution is exact as long as neither side
    is longer than 4g.

    Raises
    ------
    ValueError : if no low-resolution logits give the wanted ones.
    """
    input_hw = input_size(*wanted.shape, image_size)
    rows, to_rows = _both_steps(wanted.shape[0], input_hw[0], image_size)
    columns, to_columns = _both_steps(wanted.shape[1], input_hw[1], image_size)
    low = to_rows @ wanted @ to_columns.T
    if np.abs(rows @ low @ columns.T - wanted).max() > 1e-3:
        raise ValueError(f"{wanted.shape} pixels cannot be reached from {low.shape} cells")
    return low.astype(np.float32)


@lru_cache(maxsize=64)
def _both_steps(crop_side: int, input_side: int, image_size: int) -> tuple[np.ndarray, np.ndarray]:
    """The map of one axis from cells to the crop's pixels, and its pseudo-inverse."""
    square = bilinear_map(image_size, image_size // PATCH_PX * 4)
    steps = bilinear_map(crop_side, input_side) @ square[:input_side]
    return steps, np.linalg.pinv(steps)


def bilinear_map(new: int, old: int) -> np.ndarray:
    """Float64 [new, old]: bilinear resizing of one axis, align_corners=False, not antialiased."""
    matrix = np.zeros((new, old))
    for i in range(new):
        source = max((i + 0.5) * old / new - 0.5, 0.0)
        before = min(int(source), old - 1)
        after = min(before + 1, old - 1)
        matrix[i, before] += 1 - (source - before)
        matrix[i, after] += source - before
    return matrix


@dataclass(frozen=True)
class FakeEmbedding:
    """What `FakeBackend` keeps of an image: uint8 [h, w, 3] without its padding."""

    image: np.ndarray


@dataclass(frozen=True)
class FakeDecoded:
    """Scores float32 [N], and the logits float32 [N, 4g, 4g] that ``head`` chooses from."""

    score: np.ndarray
    logits: np.ndarray


class FakeBackend:
    """The runtime's backend protocol around a ``predict`` function.

    Checks that what it is given is what the graphs take: uint8 squares that are zero outside their
    valid part, int32 sizes, float32 points, int64 indices.
    """

    def __init__(self, predict: Predict, image_size: int) -> None:
        self.predict = predict
        self.image_size = image_size

    def encode(self, images: np.ndarray, sizes: np.ndarray) -> list[FakeEmbedding]:
        """``images`` uint8 [B, S, S, 3], ``sizes`` int32 [B, 2] (height, width)."""
        _require(images.dtype == np.uint8, f"images are {images.dtype}")
        _require(images.shape[1:] == (self.image_size, self.image_size, 3), f"{images.shape}")
        _require(sizes.dtype == np.int32, f"sizes are {sizes.dtype}")
        _require(sizes.shape == (len(images), 2), f"sizes have shape {sizes.shape}")
        embeddings = []
        for image, (height, width) in zip(images, sizes, strict=True):
            padding = image.copy()
            padding[:height, :width] = 0
            _require(not padding.any(), "the padding is not zero")
            embeddings.append(FakeEmbedding(image[:height, :width].copy()))
        return embeddings

    def decode(self, embedding: FakeEmbedding, points: np.ndarray) -> FakeDecoded:
        """``points`` float32 [N, 2] (x, y), input pixels."""
        _require(points.dtype == np.float32, f"points are {points.dtype}")
        _require(points.ndim == 2 and points.shape[1] == 2, f"points have shape {points.shape}")
        return FakeDecoded(*self.predict(embedding.image, points))

    def head(self, decoded: FakeDecoded, index: Sequence[int] | np.ndarray) -> np.ndarray:
        """Logits float32 [M, 4g, 4g] of the prompts ``index`` int64 [M]."""
        _require(np.asarray(index).dtype == np.int64, f"index is {np.asarray(index).dtype}")
        return decoded.logits[index]


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise TypeError(message)
