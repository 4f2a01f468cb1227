"""Graphs against the PyTorch modules they came from, on ONNX Runtime's CPU provider.

Ends every export. May import torch and onnxruntime.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cellseg1_rt.contract import GRAPHS
from cellseg1_rt.errors import VerificationError
from cellseg1_rt.extras import require

__all__ = ["Difference", "check_inputs", "compare_graphs", "require_within"]


@dataclass(frozen=True)
class Difference:
    """Largest absolute difference of an output, in units of the reference's standard deviation."""

    graph: str
    tensor: str
    relative: float


def check_inputs(image_size: int) -> dict[str, NDArray[np.generic]]:
    """Inputs every graph is checked with: made by arithmetic, the same on every machine.

    Two images of smooth waves, one of them with padding, and 37 points on and between pixels.
    """
    rng = np.random.default_rng(20_240_531)
    y, x = np.mgrid[:image_size, :image_size] / image_size
    images = np.empty((2, image_size, image_size, 3), np.uint8)
    for image in images:
        for channel in range(3):
            waves = sum(
                np.sin(2 * np.pi * (fx * x + fy * y) + phase)
                for fx, fy, phase in rng.uniform(-20, 20, (6, 3))
            )
            image[..., channel] = np.clip(128 + 30 * waves, 0, 255)
    size = np.array([[image_size, image_size], [image_size * 3 // 4, image_size - 3]], np.int32)
    points = rng.uniform(0, image_size, (37, 2)).astype(np.float32)
    index = np.array([0, 36, 5, 6, 17], np.int64)
    return {"image": images, "size": size, "points": points, "index": index}


def compare_graphs(
    folder: Path, modules: dict[str, torch.nn.Module], image_size: int
) -> list[Difference]:
    """Run each graph of a folder and its module on the same inputs.

    Parameters
    ----------
    folder : holds ``<graph>.onnx`` for every graph of the contract.
    modules : the PyTorch modules, by the names of ``GRAPHS``.
    image_size : side S in px, a multiple of the patch size.

    Raises
    ------
    MissingExtraError : if onnxruntime is not installed.
    """
    require("onnxruntime", extra="cpu", needed_for="verifying an export")
    held: dict[str, NDArray[np.generic]] = check_inputs(image_size)
    differences = []
    for name, spec in GRAPHS.items():
        arrays = [held[tensor.name] for tensor in spec.inputs]
        with torch.no_grad():
            outputs = modules[name](*(torch.from_numpy(array) for array in arrays))
        references = [
            tensor.numpy() for tensor in (outputs if isinstance(outputs, tuple) else (outputs,))
        ]
        found = _run(
            folder / spec.file_name, {t.name: a for t, a in zip(spec.inputs, arrays, strict=True)}
        )
        for tensor, reference, result in zip(spec.outputs, references, found, strict=True):
            spread = float(reference.std()) or 1.0
            relative = float(np.abs(result - reference).max()) / spread
            differences.append(Difference(name, tensor.name, relative))
            held[tensor.name] = reference
        if name == "encoder":
            held["embedding"] = held["embedding"][:1]
    return differences


def require_within(differences: list[Difference], tolerances: dict[str, float]) -> None:
    """Raise unless every difference is within its graph's tolerance.

    Raises
    ------
    VerificationError : naming graph, tensor and figure.
    """
    for difference in differences:
        tolerance = tolerances[difference.graph]
        # Written so that NaN, which compares false, does not pass.
        if not difference.relative <= tolerance:
            raise VerificationError(
                "graph differs from its PyTorch module",
                where=f"graph {difference.graph}, tensor {difference.tensor}",
                got=f"{difference.relative:.2e} of the output's spread",
                expected=f"at most {tolerance:.0e}",
                fix="report this with the recipe and versions; do not use the bundle",
            )


def _run(path: Path, feeds: dict[str, NDArray[np.generic]]) -> list[NDArray[np.float32]]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))
