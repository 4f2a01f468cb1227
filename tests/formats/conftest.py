"""Sample arrays for the readers and writers: no structure that a codec or a swap could hide in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

HEIGHT, WIDTH = 61, 83


class Samples:
    """Random arrays of one size, the same in every test."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(7)

    def of(self, dtype: Any, *channels: int) -> NDArray[Any]:
        shape = (HEIGHT, WIDTH, *channels)
        kind = np.dtype(dtype)
        if kind.kind == "b":
            return self._rng.random(shape) > 0.5
        if kind.kind == "f":
            return self._rng.normal(size=shape).astype(kind)
        info = np.iinfo(kind)
        return self._rng.integers(info.min, info.max, shape, kind, endpoint=True)


@pytest.fixture
def samples() -> Samples:
    return Samples()


@pytest.fixture
def label_map() -> NDArray[np.int64]:
    """Four cells [61, 83] with gaps in their numbers; 1 and 5 touch, 300 is cut by the edge."""
    labels = np.zeros((HEIGHT, WIDTH), np.int64)
    labels[5:20, 7:30] = 1
    labels[5:20, 30:53] = 5
    labels[40:61, 60:83] = 300
    labels[30, 11] = 7
    return labels
