"""Engines compared with the CPU: what passes, what does not, and that two images are looked at."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from cellseg1_rt.engine.verify import compare_backends, require_agreement
from cellseg1_rt.errors import VerificationError


@dataclass
class Decoded:
    score: np.ndarray


class Sums:
    """A backend of plain sums, some of which can be wrong by a share of their spread."""

    image_size = 80

    def __init__(self, score: float = 0.0, logits: float = 0.0, only_padded: bool = False) -> None:
        self.off = {"score": score, "logits": logits}
        self.only_padded = only_padded
        self.seen: list[tuple[int, int]] = []

    def encode(self, images: np.ndarray, sizes: np.ndarray) -> list[Any]:
        assert images.shape == (1, 80, 80, 3)
        height, width = sizes[0]
        assert not images[0, height:].any()
        assert images[0, :height].std() > 60
        self.seen.append((int(height), int(width)))
        return [images[0].mean(axis=2)]

    def decode(self, embedding: np.ndarray, points: np.ndarray) -> Decoded:
        x, y = points.astype(int).T
        assert (y < self.seen[-1][0]).all()
        self.embedding = embedding
        return Decoded(self._wrong("score", embedding[y, x]))

    def head(self, decoded: Decoded, index: np.ndarray) -> np.ndarray:
        logits = decoded.score[index, None, None] * self.embedding[:20, :20]
        return self._wrong("logits", logits)

    def _wrong(self, name: str, values: np.ndarray) -> np.ndarray:
        values = values.astype(np.float32)
        if not self.only_padded or self.seen[-1][0] < 80:
            values.flat[-1] += self.off[name] * values.std()
        return values


@pytest.fixture
def manifest(tiny_manifest):
    return replace(
        tiny_manifest,
        image_size=80,
        tolerances={"encoder": 0.1, "prompt_decoder": 0.02, "mask_head": 0.05},
    )


def compare(manifest, **wrong: Any):
    return compare_backends(Sums(**wrong), Sums(), manifest, 11)


def test_agreement(manifest):
    agreements = compare(manifest)
    assert [(a.graph, a.tensor, a.relative) for a in agreements] == [
        ("prompt_decoder", "score", 0.0),
        ("mask_head", "logits", 0.0),
    ]
    assert [a.allowed for a in agreements] == pytest.approx([0.04, 0.1])
    require_agreement(agreements)


def test_within_twice_the_tolerance(manifest):
    require_agreement(compare(manifest, logits=0.09))


@pytest.mark.parametrize("only_padded", [False, True])
@pytest.mark.parametrize(
    "wrong, named, figure",
    [
        ({"score": 0.05}, "graph prompt_decoder, tensor score", "got 5.0"),
        ({"logits": -0.11}, "graph mask_head, tensor logits", "got 1.1"),
        ({"logits": float("nan")}, "graph mask_head, tensor logits", "got nan"),
    ],
)
def test_outside(manifest, wrong: dict[str, float], named: str, figure: str, only_padded: bool):
    with pytest.raises(VerificationError) as caught:
        require_agreement(compare(manifest, **wrong, only_padded=only_padded))
    line = str(caught.value)
    assert line.startswith(f"{named}: the engine differs from the CPU; {figure}")
    assert "of the output's spread; expected at most" in line
    assert "Fix: export the bundle in bf16 or fp32, or build with the other --flavor" in line
