"""Merges a LoRA into its SAM, exactly: W' = W + B·A, one file in SAM's own names.

Works on tensors and files; runs no model and knows nothing of graphs. May import torch and
safetensors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cellseg1_rt.backbone import Backbone
from cellseg1_rt.errors import ConfigError
from cellseg1_rt.files import require_writable_folder, sha256_of_file
from cellseg1_rt.model.lora import check_lora, read_lora, read_provenance
from cellseg1_rt.model.lora_layout import is_replaced, lora_sites
from cellseg1_rt.model.weights import read_sam_state, write_safetensors
from cellseg1_rt.version import __version__

__all__ = ["MergeSummary", "merge_files", "merge_lora"]


@dataclass(frozen=True)
class MergeSummary:
    """What was merged.

    Attributes
    ----------
    output : the file that was written.
    rank : of the LoRA; None where there was none.
    image_size : side of the square input in px that the positions are made for.
    tensors : how many the file holds.
    size_bytes : of the file.
    metadata : what the file says of itself.
    """

    output: Path
    rank: int | None
    image_size: int
    tensors: int
    size_bytes: int
    metadata: dict[str, str]


def merge_lora(
    sam_state: Mapping[str, Tensor], lora_state: Mapping[str, Tensor], backbone: Backbone
) -> dict[str, Tensor]:
    """Add every B·A to its weight and put the LoRA's full copies in place of SAM's tensors.

    B·A goes into the q rows (first third) and v rows (last third) of each ``qkv.weight`` and into
    ``q_proj.weight`` and ``v_proj.weight`` of the decoder's attentions (CellSeg1, "LoRA"). Product
    and sum are float64 and are rounded once.

    Parameters
    ----------
    sam_state : SAM's weights by its own names, float32, at any image size; not modified.
    lora_state : upstream's flat layout, float32; not modified.
    backbone : of both.

    Returns
    -------
    float32 by SAM's names; tensors that no update meets are shared with the inputs.

    Raises
    ------
    WeightsError : if the LoRA does not fit the backbone.
    """
    check_lora(lora_state, backbone.depth, backbone.embed_dim)
    merged = {key: lora_state[key] if is_replaced(key) else sam_state[key] for key in sam_state}
    sites = lora_sites(backbone.depth, backbone.embed_dim)
    for key in {site.weight_key for site in sites}:
        merged[key] = merged[key].clone()
    for site in sites:
        rows = merged[site.weight_key][site.first_row : site.first_row + site.out_features]
        product = lora_state[site.b_key].double() @ lora_state[site.a_key].double()
        rows.copy_(rows.double() + product)
    return merged


def merge_files(
    sam_path: Path | str,
    lora_path: Path | str | None,
    output_path: Path | str,
    backbone: Backbone,
    image_size: int = 512,
    dtype: torch.dtype = torch.float32,
    expected_rank: int | None = None,
) -> MergeSummary:
    """Write one ``.safetensors`` file with SAM's names, the LoRA merged and the positions resized.

    Parameters
    ----------
    sam_path : SAM checkpoint, ``.pth`` or ``.safetensors``, for any image size.
    lora_path : LoRA file; None converts and resizes the SAM alone.
    output_path : a name ending in ``.safetensors``; replaced as a whole at the end.
    backbone : of both.
    image_size : side of the square input in px, a multiple of 16.
    dtype : float32, float16 or bfloat16.
    expected_rank : refuse a LoRA of another rank; None takes any that is the same throughout.

    Raises
    ------
    ConfigError : on an output that cannot be written or is an input, or a wrong image size.
    WeightsError : if a file is damaged or made for another backbone or rank.
    """
    output = Path(output_path)
    _check_output(output, sam_path, lora_path)
    state = read_sam_state(sam_path, backbone, image_size)
    metadata = {
        "cellseg1_rt_version": __version__,
        "backbone": json.dumps(backbone.to_dict()),
        "image_size": str(image_size),
        "sam_sha256": sha256_of_file(Path(sam_path)),
    }
    rank = None
    if lora_path is not None:
        lora = read_lora(lora_path, backbone, expected_rank)
        rank = lora["w_a_000"].shape[0]
        state = merge_lora(state, lora, backbone)
        # What its training said of itself comes along; what this merge knows counts more.
        own = {"lora_sha256": sha256_of_file(Path(lora_path)), "lora_rank": str(rank)}
        metadata = read_provenance(lora_path) | metadata | own
    write_safetensors(output, state, metadata, dtype)
    return MergeSummary(output, rank, image_size, len(state), output.stat().st_size, metadata)


def _check_output(output: Path, *inputs: Path | str | None) -> None:
    if output.suffix != ".safetensors":
        raise ConfigError(
            "not a name for merged weights", where=output, expected="a name ending in .safetensors"
        )
    require_writable_folder(output.parent)
    if any(path is not None and output.resolve() == Path(path).resolve() for path in inputs):
        raise ConfigError(
            "the output is also an input", where=output, fix="choose another name for the output"
        )
