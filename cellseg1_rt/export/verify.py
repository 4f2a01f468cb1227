"""Graphs against the PyTorch modules they came from, on ONNX Runtime's CPU provider.

Ends every export. May import torch and onnxruntime.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cellseg1_rt.contract import GRAPHS, PAIRS_NAME
from cellseg1_rt.errors import VerificationError
from cellseg1_rt.export.widen import widened_graph
from cellseg1_rt.extras import require
from cellseg1_rt.lora_pairs import pairs_in

__all__ = [
    "Difference",
    "Runner",
    "check_inputs",
    "compare_graphs",
    "compare_modules",
    "graph_runner",
    "module_runner",
    "require_within",
]

Arrays = list[NDArray[Any]]
Runner = Callable[[str, Arrays], Arrays]
"""Runs a graph, by its name, on its inputs in order; returns its outputs in order."""


@dataclass(frozen=True)
class Difference:
    """How far an output is from its reference, in units of the reference's standard deviation.

    Attributes
    ----------
    graph, tensor : which output.
    relative : the largest absolute difference.
    typical : the root of the mean squared difference.
    """

    graph: str
    tensor: str
    relative: float
    typical: float


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
    folder: Path, plain: dict[str, torch.nn.Module], image_size: int, precision: str = "fp32"
) -> list[Difference]:
    """Run each graph of a folder and its plain module on the same inputs.

    Parameters
    ----------
    folder : holds ``<graph>.onnx`` for every graph of the contract.
    plain : float32 PyTorch modules, by the names of ``GRAPHS``.
    image_size : side S in px, a multiple of the patch size.
    precision : of the graphs. ONNX Runtime's CPU provider has no bf16: such a graph is run with its
        types widened, which shows that it is the right function of the right weights.

    Raises
    ------
    MissingExtraError : if onnxruntime is not installed.
    """
    return _compare(graph_runner(folder, precision), plain, image_size)


def graph_runner(folder: Path, precision: str) -> Runner:
    """What runs a graph of a folder on ONNX Runtime's CPU provider; see ``compare_graphs``.

    An encoder that takes a LoRA's pairs gets those of the folder.
    """
    require("onnxruntime", extra="cpu", needed_for="verifying an export")
    pairs = list(pairs_in(folder).values()) if (folder / PAIRS_NAME).exists() else []

    def run(name: str, arrays: Arrays) -> Arrays:
        path = folder / GRAPHS[name].file_name
        taken = [*arrays, *pairs] if name == "encoder" else arrays
        if precision != "bf16":
            return _run(path, taken)
        with widened_graph(path) as wide:
            return _run(wide, taken)

    return run


def compare_modules(
    typed: dict[str, torch.nn.Module], plain: dict[str, torch.nn.Module], image_size: int
) -> list[Difference]:
    """Run each typed module, which rounds every operation, and its plain one on the same inputs.

    Parameters
    ----------
    typed : modules in a lower precision, by the names of ``GRAPHS``.
    plain, image_size : as for ``compare_graphs``.
    """
    return _compare(module_runner(typed), plain, image_size)


def module_runner(modules: dict[str, torch.nn.Module]) -> Runner:
    """What runs a module by its graph's name; inputs and outputs are numpy's, outputs float32."""

    def run(name: str, arrays: Arrays) -> Arrays:
        types = (parameter.dtype for parameter in modules[name].parameters())
        kept = next((dtype for dtype in types if dtype != torch.float32), torch.float32)
        tensors = [
            tensor.to(kept) if spec.dtype == "precision" else tensor
            for spec, tensor in zip(GRAPHS[name].inputs, map(torch.from_numpy, arrays), strict=True)
        ]
        return [tensor.float().numpy() for tensor in _outputs(modules[name], tensors)]

    return run


def require_within(differences: list[Difference], tolerances: dict[str, float]) -> None:
    """Raise unless every largest difference is within its graph's tolerance.

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


def _compare(run: Runner, plain: dict[str, torch.nn.Module], image_size: int) -> list[Difference]:
    """What ``run`` gives for each graph, from the plain modules' own outputs, against theirs."""
    held: dict[str, NDArray[Any]] = dict(check_inputs(image_size))
    differences = []
    for name, spec in GRAPHS.items():
        arrays = [held[tensor.name] for tensor in spec.inputs]
        references = [t.numpy() for t in _outputs(plain[name], map(torch.from_numpy, arrays))]
        for tensor, reference, found in zip(
            spec.outputs, references, run(name, arrays), strict=True
        ):
            spread = float(reference.std()) or 1.0
            error = np.abs(found.astype(np.float32) - reference) / spread
            typical = float(np.sqrt(np.mean(np.square(error, dtype=np.float64))))
            differences.append(Difference(name, tensor.name, float(error.max()), typical))
            held[tensor.name] = reference
        if name == "encoder":
            held["embedding"] = held["embedding"][:1]
    return differences


@torch.no_grad()
def _outputs(module: torch.nn.Module, tensors: Any) -> list[torch.Tensor]:
    outputs = module(*tensors)
    return list(outputs) if isinstance(outputs, tuple) else [outputs]


def _run(path: Path, arrays: Arrays) -> Arrays:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feeds = {
        put.name: array.astype(np.float16) if put.type == "tensor(float16)" else array
        for put, array in zip(session.get_inputs(), arrays, strict=True)
    }
    return list(session.run(None, feeds))
