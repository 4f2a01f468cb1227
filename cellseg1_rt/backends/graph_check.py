"""Whether a loaded graph is the one the manifest describes, asked the same way of every runtime.

Imports the standard library only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from cellseg1_rt.contract import Manifest, TensorSpec, check_graph_metadata
from cellseg1_rt.errors import BundleError

__all__ = ["broken_graph", "check_graph"]


def check_graph(
    path: Path,
    name: str,
    manifest: Manifest,
    *,
    metadata: Mapping[str, str],
    inputs: Sequence[Iterable[str]],
    outputs: Sequence[Iterable[str]],
) -> None:
    """Compare a graph's metadata and the names of its tensors with the contract.

    Parameters
    ----------
    path, name : the graph's file, and its name in ``GRAPHS``.
    metadata : what the graph says of itself.
    inputs, outputs : in the graph's order, the names each tensor goes by: a runtime that merges
        nodes may know one under several.

    Raises
    ------
    BundleError : naming the field or the tensors, what was found and what was expected.
    """
    check_graph_metadata(dict(metadata), name, manifest, path)
    _check_names(path, "inputs", inputs, manifest.graphs[name].inputs)
    _check_names(path, "outputs", outputs, manifest.graphs[name].outputs)


def broken_graph(path: Path, error: Exception) -> BundleError:
    """The error for a graph that a runtime refuses to load."""
    return BundleError(
        "graph cannot be loaded", where=path, got=error, fix="export the bundle again"
    )


def _check_names(
    path: Path, kind: str, found: Sequence[Iterable[str]], expected: Sequence[TensorSpec]
) -> None:
    names = [sorted(aliases) for aliases in found]
    if len(names) == len(expected) and all(
        tensor.name in aliases for tensor, aliases in zip(expected, names, strict=True)
    ):
        return
    raise BundleError(
        f"graph has other {kind}",
        where=path,
        got=", ".join("/".join(aliases) for aliases in names),
        expected=", ".join(tensor.name for tensor in expected),
        fix="export the bundle again",
    )
