"""The pairs of a LoRA that a swappable bundle's encoder takes: its file, read and written.

``export`` writes it. A backend reads it once, and feeds what it holds at every call. Imports the
standard library and numpy.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cellseg1_rt.contract import PAIRS_NAME, Manifest
from cellseg1_rt.errors import BundleError
from cellseg1_rt.graph_specs import PAIRS

__all__ = ["Pairs", "pairs_in", "read_pairs", "write_pairs"]

Pairs = dict[str, NDArray[np.float32]]
"""``lora_a`` [2·depth, r, d] and ``lora_b`` [2·depth, d, r], q of block i at 2i and v at 2i + 1;
empty where the encoder takes none."""


def write_pairs(folder: Path, pairs: Pairs) -> None:
    """Write the file of a bundle's pairs; the same pairs give the same bytes."""
    with (folder / PAIRS_NAME).open("wb") as file:
        np.savez(file, lora_a=pairs["lora_a"], lora_b=pairs["lora_b"])


def pairs_in(folder: Path) -> Pairs:
    """The pairs in a swappable bundle's folder, their form unchecked.

    Raises
    ------
    BundleError : if there is no file of them, or it does not hold them.
    """
    path = folder / PAIRS_NAME
    try:
        # Of a damaged archive numpy leaves a file open that it has opened itself.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as held:
            return {name: held[name] for name in PAIRS}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise BundleError(
            "the LoRA's pairs cannot be read",
            where=path,
            got=error,
            fix="copy the bundle again or export it again",
        ) from error


def read_pairs(bundle: Path, manifest: Manifest) -> Pairs:
    """What the bundle's encoder takes besides images; empty for any but a swappable bundle.

    Raises
    ------
    BundleError : if they cannot be read, or are not of the form that the encoder takes.
    """
    if manifest.lora_rank is None:
        return {}
    pairs = pairs_in(Path(bundle))
    for tensor in manifest.graphs["encoder"].inputs:
        if tensor.name not in PAIRS:
            continue
        found = pairs[tensor.name]
        got, expected = f"{found.dtype} {list(found.shape)}", f"float32 {list(tensor.shape)}"
        if got != expected:
            raise BundleError(
                f"the LoRA's pairs have another form: {tensor.name}",
                where=Path(bundle) / PAIRS_NAME,
                got=got,
                expected=expected,
                fix="copy the bundle again or export it again",
            )
    return pairs
