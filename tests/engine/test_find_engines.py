"""Which engines a card gets, of real ones; and what is said where none fits."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tensorrt_rtx as trt

from cellseg1_rt.backends.engines import find_engines
from cellseg1_rt.contract import GRAPHS, FileEntry
from cellseg1_rt.engine.build import BuildOptions, build_engines
from cellseg1_rt.engine_files import read_record, write_record
from cellseg1_rt.errors import BundleError, RuntimeUnavailableError

ASKED = {"flavor": "tensorrt-rtx", "version": trt.__version__, "target": "sm_89"}


@pytest.mark.parametrize("target", ["sm_89", "sm_120"])
def test_a_cards_own_engines(engines, tiny_folder, tiny_manifest, target: str):
    asked = {**ASKED, "target": target}
    found = find_engines(tiny_folder, tiny_manifest, **asked, folder=engines[0])
    (group,) = (group for group in engines[1] if group.targets == (target,))
    assert list(found) == list(GRAPHS)
    assert found == group.engines


def test_those_of_most_prompts(engines_copy, tiny_folder, tiny_manifest, recipe):
    """A decoder for more prompts does not count without a head that takes them."""
    folder = engines_copy("sm_89")
    larger = replace(recipe, targets=("sm_89",)).updated(prompt_batch=7)
    build_engines(tiny_folder, larger, BuildOptions(folder))
    found = find_engines(tiny_folder, tiny_manifest, **ASKED, folder=folder)
    assert {found[name].key.profile["N"].max for name in ("prompt_decoder", "mask_head")} == {7}
    found["mask_head"].path.unlink()
    found = find_engines(tiny_folder, tiny_manifest, **ASKED, folder=folder)
    assert {found[name].key.profile["N"].max for name in ("prompt_decoder", "mask_head")} == {3}


@pytest.mark.parametrize(
    "asked, got",
    [
        ({"target": "sm_86"}, "got engines built for sm_120; engines built for sm_89; expected"),
        ({"version": "9.9.9"}, f"engines built by version {trt.__version__}; engines built for"),
        ({"flavor": "tensorrt"}, "got none; expected all three for sm_89, tensorrt 1"),
    ],
    ids=["another-card", "another-version", "another-flavour"],
)
def test_engines_of_something_else(engines, tiny_folder, tiny_manifest, asked, got: str):
    with pytest.raises(RuntimeUnavailableError) as caught:
        find_engines(tiny_folder, tiny_manifest, **{**ASKED, **asked}, folder=engines[0])
    line = str(caught.value)
    assert line.startswith(f"{engines[0]}: no engines of this bundle for the runtime")
    assert got in line
    target = {**ASKED, **asked}["target"]
    assert line.endswith(f"Fix: cellseg1-rt build-engine BUNDLE --recipe RECIPE --target {target}")


@pytest.mark.parametrize("name", ["prompt_decoder.onnx", "weights.safetensors"])
def test_a_graph_that_changed_since_the_build(engines, tiny_folder, tiny_manifest, name: str):
    files = tiny_manifest.files | {name: FileEntry("0" * 64, 7)}
    with pytest.raises(RuntimeUnavailableError, match="built from other graphs or weights"):
        find_engines(tiny_folder, replace(tiny_manifest, files=files), **ASKED, folder=engines[0])


def test_a_damaged_engine(engines_copy, tiny_folder, tiny_manifest):
    folder = engines_copy("sm_89")
    plan = next(folder.glob("encoder.*.plan"))
    plan.write_bytes(plan.read_bytes()[:-7])
    with pytest.raises(BundleError, match="damaged engine: the plan has another size"):
        find_engines(tiny_folder, tiny_manifest, **ASKED, folder=folder)


def test_a_record_changed_by_hand(engines_copy, tiny_folder, tiny_manifest):
    """A plan for one card cannot be passed off as another's."""
    folder = engines_copy("sm_89")
    record = read_record(next(folder.glob("encoder.*.json")))
    forged = replace(record, key=replace(record.key, targets=("sm_86",)))
    write_record(forged)
    forged.path.replace(record.path)
    with pytest.raises(BundleError, match="a key that is not the one its name was made of"):
        find_engines(tiny_folder, tiny_manifest, **ASKED, folder=folder)
