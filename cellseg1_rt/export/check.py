"""The check that a bundle carries: made with SAM's own modules, and passed by its own graphs.

May import torch and onnxruntime.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from cellseg1_rt.check import (
    Check,
    CheckInputs,
    Deviation,
    Outputs,
    check_inputs,
    deviations_of,
    require_agreement,
    sampled,
    write_check,
)
from cellseg1_rt.contract import CHECK_NAME
from cellseg1_rt.export.verify import Runner, graph_runner, module_runner

__all__ = ["make_check", "write_bundle_check"]


def write_bundle_check(
    folder: Path,
    plain: dict[str, torch.nn.Module],
    typed: dict[str, torch.nn.Module],
    *,
    image_size: int,
    precision: str,
    tolerances: dict[str, float],
) -> list[Deviation]:
    """Write a bundle's check, once its graphs have passed it one after another.

    Parameters
    ----------
    folder : holds the graphs, and gets the check.
    plain : SAM's modules in float32, by the names of ``GRAPHS``.
    typed : the modules that were exported. In bf16 they stand for the graphs, since ONNX Runtime's
        CPU provider has no bf16, and they round every operation.
    image_size, precision, tolerances : the bundle's.

    Returns
    -------
    How far the graphs are from the plain modules.

    Raises
    ------
    VerificationError : if they are further than a card's may be.
    """
    check = make_check(plain, image_size)
    run = module_runner(typed) if precision == "bf16" else graph_runner(folder, precision)
    deviations = deviations_of(_outputs(run, check.inputs), check, tolerances)
    require_agreement(
        deviations, "the bundle", "report this with the recipe and versions; do not use the bundle"
    )
    write_check(folder / CHECK_NAME, check)
    return deviations


def make_check(plain: dict[str, torch.nn.Module], image_size: int) -> Check:
    """The inputs for an image size, and what modules in float32 give for them."""
    inputs = check_inputs(image_size)
    return Check(inputs, _outputs(module_runner(plain), inputs))


def _outputs(run: Runner, inputs: CheckInputs) -> Outputs:
    """Run the three graphs, each on what the one before it gave."""
    (embedding,) = run("encoder", [inputs.image, inputs.size])
    score, hyper, keys = run("prompt_decoder", [embedding, inputs.points])
    (logits,) = run("mask_head", [keys, hyper, inputs.index])
    return Outputs(sampled(embedding), score.astype(np.float32), sampled(logits))
