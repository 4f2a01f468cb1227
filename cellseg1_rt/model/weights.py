"""Reads weights files, SAM's in Meta's form among them, and writes ``.safetensors``.

Files are mapped into memory, not copied, so ViT-H costs little more than its 2.5 GB. Code that a
file carries is never run. Whether tensors fit a model is ``weight_checks.py``. May import torch,
safetensors and, through ``sam.py``, segment-anything.
"""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from textwrap import shorten
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from cellseg1_rt.backbone import Backbone
from cellseg1_rt.errors import WeightsError
from cellseg1_rt.files import atomic_path
from cellseg1_rt.model.sam import build_sam
from cellseg1_rt.model.weight_checks import check_finite, fit_sam_state, names_in_words

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

__all__ = [
    "load_sam",
    "read_metadata",
    "read_sam_state",
    "read_tensors",
    "sam_of",
    "write_safetensors",
]

SAFETENSORS_NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


def read_tensors(path: Path | str) -> dict[str, Tensor]:
    """Every tensor of a ``.safetensors`` file, or of a flat dict saved with ``torch.save``.

    Returns
    -------
    Tensors by name, float32, on the CPU. Those stored as float32 are mapped from the file: they are
    read when used, and changing them does not change the file.

    Raises
    ------
    WeightsError : if the file is missing, damaged, holds anything but named tensors, or holds code,
        which is never run.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(
            "no such weights file", where=path, expected="a .pth or .safetensors file"
        )
    loaded = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    if not isinstance(loaded, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in loaded.items()
    ):
        raise WeightsError(
            "not a table of named tensors",
            where=path,
            got=_describe_content(loaded),
            expected="a flat dict from names to tensors, as in Meta's and CellSeg1's files",
        )
    return {key: value.detach().to(torch.float32) for key, value in loaded.items()}


def read_metadata(path: Path | str) -> dict[str, str]:
    """The metadata of a ``.safetensors`` file, such as the provenance that ``merge`` writes.

    Files of another suffix have none.

    Raises
    ------
    WeightsError : if the file is missing or damaged.
    """
    if Path(path).suffix != ".safetensors":
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise _damaged(Path(path), error) from error


def read_sam_state(path: Path | str, backbone: Backbone, image_size: int) -> dict[str, Tensor]:
    """The weights of a SAM file, checked and brought to ``image_size``, by SAM's own names.

    Raises
    ------
    ConfigError : on an image size that is not a positive multiple of 16.
    WeightsError : if the file is damaged, holds another model or a value that is not finite.
    """
    state = fit_sam_state(read_tensors(path), backbone, image_size, where=path)
    check_finite(state, where=path)
    return state


def load_sam(path: Path | str, backbone: Backbone, image_size: int = 512) -> Sam:
    """A SAM with the weights of a file, in eval mode, on the CPU, float32.

    Parameters
    ----------
    path : official checkpoint or merged weights, made for any image size.
    backbone : the encoder that the file must hold.
    image_size : side of the square input in px, a multiple of 16.

    Raises
    ------
    ConfigError : on an image size that is not a positive multiple of 16.
    WeightsError : as ``read_sam_state``.
    """
    return sam_of(read_sam_state(path, backbone, image_size), backbone, image_size)


def sam_of(state: Mapping[str, Tensor], backbone: Backbone, image_size: int) -> Sam:
    """A SAM of weights that fit it, in eval mode, on the CPU; it takes the tensors as they are."""
    # Without storage of its own the module takes the tensors as they are: one copy, not two.
    with torch.device("meta"):
        sam = build_sam(backbone, image_size)
    sam.load_state_dict(state, strict=True, assign=True)
    return sam


def write_safetensors(
    path: Path,
    state: Mapping[str, Tensor],
    metadata: Mapping[str, str],
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write tensors to a ``.safetensors`` file; equal content gives equal bytes.

    The package's own writer puts the metadata in random order (safetensors issue 584), which would
    give every merge another hash, hence this one. It converts one tensor at a time.

    Parameters
    ----------
    path : replaced as a whole once everything is written.
    state : tensors by name, of any shape and float dtype; written in order of their names.
    metadata : text by name.
    dtype : float32, float16 or bfloat16.

    Raises
    ------
    WeightsError : if a value is too large for ``dtype``; nothing is written then.
    """
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    offset = 0
    for key in sorted(state):
        end = offset + state[key].numel() * dtype.itemsize
        header[key] = {
            "dtype": SAFETENSORS_NAMES[dtype],
            "shape": list(state[key].shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for key in sorted(state):
            values = state[key].detach().to("cpu", dtype).contiguous()
            if not bool(torch.isfinite(values).all()):
                raise WeightsError(
                    "values do not fit the number format",
                    where=f"{path}: {key}",
                    expected=f"what {dtype} can hold",
                )
            file.write(values.reshape(-1).view(torch.uint8).numpy().data)


def _read_safetensors(path: Path) -> object:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise _damaged(path, error) from error


def _read_pickle(path: Path) -> object:
    try:
        with path.open("rb") as file:
            starts_as_archive = file.read(2) == b"PK"
    except OSError as error:
        raise _damaged(path, error.strerror) from error
    is_archive = zipfile.is_zipfile(path)
    if starts_as_archive and not is_archive:
        raise _damaged(path, "an archive that ends too early")
    try:
        with warnings.catch_warnings():
            # Foreign pickles draw a warning about their protocol before the error that counts.
            warnings.simplefilter("ignore")
            # Only the archive form (PyTorch 1.6 and later) can be mapped.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive)
    except UnpicklingError as error:
        if "global" not in str(error).lower():
            raise _damaged(path, "bytes that PyTorch cannot read") from error
        raise WeightsError(
            "holds Python objects, which could run code, and was not loaded",
            where=path,
            expected="nothing but tensors",
            fix="save the model's state_dict instead of the model, or get the file from its source",
        ) from error
    # Damaged bytes surface as whatever the unpickler trips over: OSError, KeyError, UnicodeError...
    except Exception as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, reason: object) -> WeightsError:
    text = str(reason) or type(reason).__name__
    return WeightsError(
        "cannot be read as weights; the file is damaged or of another kind",
        where=path,
        got=shorten(text, 100, placeholder=" ..."),
        fix="copy or fetch it again",
    )


def _describe_content(loaded: object) -> str:
    if not isinstance(loaded, dict):
        return f"a {type(loaded).__name__}"
    others = [str(key) for key, value in loaded.items() if not isinstance(value, Tensor)]
    if not others:
        return "keys that are not text"
    return f"{len(others)} entries that are no tensors: {names_in_words(others)}"
