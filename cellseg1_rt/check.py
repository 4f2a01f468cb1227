"""A bundle's check: one image and some points, and what the graphs make of them in float32.

``export`` writes it. Where graphs run on a card, what they give there is compared with it, since
fused attention has been silently wrong. Imports the standard library and numpy.
"""

from __future__ import annotations

import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.contract import CHECK_NAME, Manifest
from cellseg1_rt.errors import BundleError, VerificationError

__all__ = [
    "Check",
    "CheckInputs",
    "Deviation",
    "Outputs",
    "check_inputs",
    "deviations_of",
    "read_check",
    "require_agreement",
    "sampled",
    "write_check",
]

STRIDE = 31
"""Every 31st value of the large outputs is kept. Their sides are multiples of 4, so all channels,
rows and columns are met, and 50 kB are enough."""

_TENSORS = {"encoder": "embedding", "prompt_decoder": "score", "mask_head": "logits"}
_SHARE = {"encoder": 1.0, "prompt_decoder": 2.0, "mask_head": 2.0}
"""A bundle's tolerance is for one graph from exact inputs. Here graphs run one after another: what
an input is off by comes on top."""

_TYPICAL_SHARE = 1 / 8
"""What rounds has few large differences: with `tiny`, the largest of a tensor is 3 to 14 times its
typical one in fp16 and bf16. What computes something else is off everywhere."""


@dataclass(frozen=True)
class CheckInputs:
    """What the graphs are run on.

    Attributes
    ----------
    image : uint8 [1, S, S, 3], RGB, padded right and bottom.
    size : int32 [1, 2], its valid (height, width).
    points : float32 [N, 2], (x, y) in input pixels, inside the valid part.
    index : int64 [M], rising: the prompts whose logits are looked at.
    """

    image: NDArray[np.uint8]
    size: NDArray[np.int32]
    points: NDArray[np.float32]
    index: NDArray[np.int64]

    def first(self, prompts: int) -> CheckInputs:
        """The same with the first ``prompts`` points, for a runtime that takes no more a call."""
        kept = self.index[self.index < prompts]
        return CheckInputs(self.image, self.size, self.points[:prompts], kept)


@dataclass(frozen=True)
class Outputs:
    """What the graphs gave, float32: of embedding and logits every ``STRIDE``-th value, in C order.

    Attributes
    ----------
    embedding : of [1, 256, g, g].
    score : [N], all of them.
    logits : of [M, 4g, 4g].
    """

    embedding: NDArray[np.float32]
    score: NDArray[np.float32]
    logits: NDArray[np.float32]


@dataclass(frozen=True)
class Check:
    """Inputs, and the outputs in float32 that everything else is compared with."""

    inputs: CheckInputs
    outputs: Outputs


@dataclass(frozen=True)
class Deviation:
    """How far a tensor is from float32's, in units of the standard deviation of float32's.

    Attributes
    ----------
    graph, tensor : which output.
    relative : the largest difference.
    typical : the root of the mean squared difference.
    allowed : the most that ``relative`` may be; ``typical`` may be 1/8 of it.
    """

    graph: str
    tensor: str
    relative: float
    typical: float
    allowed: float


def check_inputs(image_size: int) -> CheckInputs:
    """The inputs for an image size: made by arithmetic, the same on every machine.

    Blocks of 8 px, since plain noise is one grey to a network of 16-px patches. They also compress.
    """
    rng = np.random.default_rng(20)
    height, width = image_size * 3 // 4 + 3, image_size - 5
    blocks = rng.integers(0, 256, (image_size // 8, image_size // 8, 3), np.uint8)
    image = blocks.repeat(8, axis=0).repeat(8, axis=1)[None].copy()
    image[:, height:], image[:, :, width:] = 0, 0
    points = rng.uniform(0, (width, height), (37, 2)).astype(np.float32)
    index = np.array([0, 1, 5, 11, 17, 17, 36], np.int64)
    return CheckInputs(image, np.array([[height, width]], np.int32), points, index)


def sampled(values: NDArray[np.generic]) -> NDArray[np.float32]:
    """Every ``STRIDE``-th value, float32."""
    return np.ascontiguousarray(values.reshape(-1)[::STRIDE], np.float32)


def write_check(path: Path, check: Check) -> None:
    """Write the file of a check; the same check gives the same bytes."""
    with path.open("wb") as file:
        np.savez_compressed(file, **asdict(check.inputs), **asdict(check.outputs))


def read_check(bundle: Path, manifest: Manifest) -> Check | None:
    """A bundle's check; None where it has none, as those exported by earlier versions.

    Raises
    ------
    BundleError : if the file does not hold what a check holds.
    """
    if CHECK_NAME not in manifest.files:
        return None
    path = Path(bundle) / CHECK_NAME
    try:
        with np.load(path, allow_pickle=False) as held:
            inputs = CheckInputs(held["image"], held["size"], held["points"], held["index"])
            outputs = Outputs(held["embedding"], held["score"], held["logits"])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise BundleError(
            "the bundle's check cannot be read", where=path, got=error, fix="export it again"
        ) from error
    return Check(inputs, outputs)


def deviations_of(found: Outputs, check: Check, tolerances: dict[str, float]) -> list[Deviation]:
    """How far outputs are from a check's, in the order of the graphs.

    Parameters
    ----------
    found : of all the check's prompts, or of the first of them.
    tolerances : the manifest's, by graph.
    """
    deviations = []
    for graph, tensor in _TENSORS.items():
        got, wanted = getattr(found, tensor), getattr(check.outputs, tensor)
        # Of the whole, since a few prompts may hardly differ among themselves.
        spread = float(wanted.std()) or 1.0
        off = np.abs(got - wanted[: len(got)], dtype=np.float64) / spread
        relative, typical = float(off.max()), float(np.sqrt(np.mean(off**2)))
        allowed = _SHARE[graph] * tolerances[graph]
        deviations.append(Deviation(graph, tensor, relative, typical, allowed))
    return deviations


def require_agreement(deviations: list[Deviation], who: str, fix: str) -> None:
    """Refuse what is not the graphs.

    Parameters
    ----------
    who : what gave the outputs, for the error.
    fix : what to do about it.

    Raises
    ------
    VerificationError : naming the first graph and tensor outside tolerance, with both figures.
    """
    for each in deviations:
        for figure, allowed, which in (
            (each.relative, each.allowed, "at the most"),
            (each.typical, each.allowed * _TYPICAL_SHARE, "in the root mean square"),
        ):
            if not figure <= allowed:  # not a number is not agreement
                raise VerificationError(
                    f"{who} gives something else than the bundle was exported with",
                    where=f"graph {each.graph}, tensor {each.tensor}",
                    got=f"{figure:.2e} of the output's spread {which}",
                    expected=f"no more than {allowed:.2e}",
                    fix=fix,
                )
