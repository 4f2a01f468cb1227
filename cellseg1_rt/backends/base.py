"""What the pipeline asks of a runtime library: three calls, one a graph.

Imports numpy only. What ``encode`` and ``decode`` return is the backend's own and may live in
device memory; the pipeline hands it back and reads nothing of it but ``score``.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Backend", "Decoded"]


class Decoded(Protocol):
    """A decoded batch of N prompts, kept until its survivors' masks have been asked for."""

    @property
    def score(self) -> NDArray[np.float32]:
        """Cell probability of each prompt, [N]; not clipped to 0..1."""


class Backend(Protocol):
    """A bundle's graphs, loaded."""

    @property
    def image_size(self) -> int:
        """Side S of the square input in px."""

    def encode(self, images: NDArray[np.uint8], sizes: NDArray[np.int32]) -> list[Any]:
        """Embed a batch.

        Parameters
        ----------
        images : uint8 [B, S, S, 3], RGB, padded right and bottom.
        sizes : int32 [B, 2], valid (height, width) of each.

        Returns
        -------
        One embedding an image, to be handed to ``decode``.
        """

    def decode(self, embedding: Any, points: NDArray[np.float32]) -> Any:
        """Score N points, float32 [N, 2], (x, y) in input pixels. Returns a ``Decoded``."""

    def head(self, decoded: Any, index: NDArray[np.int64]) -> NDArray[np.float32]:
        """Mask logits [M, S/4, S/4] of prompts ``index`` [M] of a decoded batch."""
