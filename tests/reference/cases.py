"""What a case is: an input on which one rule decides, the outcome by hand, and the rule broken.

The ``cases_*`` modules hold the tables. A case's ``broken`` gives one or more wrong readings of its
rule; each must change the result, or the case would not tell.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from reference.fake import Scene
from reference.inference import segment
from reference.records import ReferenceResult
from reference.rules import RULES

IN, OUT = 2.0, -2.0
UNSURE = 0.4

Broken = Mapping[str, Mapping[str, Callable]]


@dataclass(frozen=True)
class Case:
    """One rule, put to the test.

    Attributes
    ----------
    rule : step and name of the rule; the test's id.
    scene : the image and the model's answers.
    cells : the answers (their places in the scene) that become cells 1..K, in that order.
    broken : wrong readings by name, each as the rule functions it replaces.
    settings : thresholds other than the published ones.
    """

    rule: str
    scene: Scene
    cells: tuple[int, ...]
    broken: Broken
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def thresholds(self) -> dict[str, Any]:
        """Settings of the runtime by name."""
        grid = {"points_per_side": self.scene.points_per_side, "crops": self.scene.crops}
        return {**grid, **self.settings}

    @property
    def prompts(self) -> tuple[int, ...]:
        """Prompts of ``cells``, counted through all crops."""
        grid = self.scene.points_per_side**2
        answers = [self.scene.answers[i] for i in self.cells]
        return tuple(answer.crop * grid + answer.prompt for answer in answers)

    def reference(self, **broken: Callable) -> ReferenceResult:
        """The reference's result, with some rules replaced."""
        return segment(
            self.scene.image,
            self.scene.predict,
            rules=replace(RULES, **broken),
            image_size=self.scene.image_size,
            **self.thresholds,
        )


def rectangles(image_hw: tuple[int, int], *boxes: tuple[int, int, int, int]) -> np.ndarray:
    """Logits float [H, W]: IN in the boxes (x0, y0, x1, y1), last pixels inclusive, else OUT."""
    logits = np.full(image_hw, OUT)
    for box in boxes:
        fill(logits, box, IN)
    return logits


def fill(logits: np.ndarray, box: tuple[int, int, int, int], value: float) -> np.ndarray:
    """``logits`` with ``value`` in a box, in place."""
    x0, y0, x1, y1 = box
    logits[y0 : y1 + 1, x0 : x1 + 1] = value
    return logits


def with_pixels(logits: np.ndarray, box: tuple[int, int, int, int], count: int, value: float):
    """``logits`` with ``value`` in the first ``count`` pixels of a box, row by row, in place."""
    x0, y0, x1, _ = box
    width = x1 - x0 + 1
    for i in range(count):
        logits[y0 + i // width, x0 + i % width] = value
    return logits
