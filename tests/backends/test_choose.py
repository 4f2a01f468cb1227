"""Which runtime, in which precision, and what is said when there is none."""

from __future__ import annotations

import hashlib
import os
import shutil

import pytest
import tensorrt_rtx

from cellseg1_rt.backends import choose, tensorrt_library
from cellseg1_rt.backends.choose import RUNTIMES, choose_runtime, require_native
from cellseg1_rt.contract import read_manifest
from cellseg1_rt.engine.build import keys_of
from cellseg1_rt.engine.recipe import EngineRecipe
from cellseg1_rt.engine_files import ENGINES_FOLDER, EngineRecord, Figures, write_record
from cellseg1_rt.errors import BundleError, ConfigError, RuntimeUnavailableError
from cellseg1_rt.recipes import read_recipe

BOTH = ("onnxruntime", "openvino")

AUTOMATIC = {
    # installed, precision of the bundle: runtime, part of the reason
    "both, fp32": (BOTH, "fp32", "onnxruntime", "the reference in fp32"),
    "onnxruntime, fp32": (("onnxruntime",), "fp32", "onnxruntime", "only runtime installed"),
    "openvino, fp32": (("openvino",), "fp32", "openvino", "only runtime installed"),
    "both, fp16": (BOTH, "fp16", "onnxruntime", "the only runtime for fp16"),
    "both, bf16": (BOTH, "bf16", "openvino", "the only runtime for bf16"),
}


@pytest.fixture
def bf16_cpu(monkeypatch):
    """The choice on a CPU with bf16, on whichever CPU the test runs."""
    from cellseg1_rt.backends import openvino

    monkeypatch.setattr(openvino, "cpu_capabilities", lambda: {"FP32", "BF16"})


@pytest.mark.parametrize("name", AUTOMATIC)
def test_auto_takes_the_first_installed_that_can(name, monkeypatch, bf16_cpu):
    installed, bundle_precision, runtime, reason = AUTOMATIC[name]
    monkeypatch.setattr(choose, "is_installed", installed.__contains__)
    choice = choose_runtime(bundle_precision=bundle_precision)
    assert (choice.runtime, choice.precision) == (runtime, bundle_precision)
    assert reason in choice.reason


def test_auto_at_a_lower_precision_takes_what_can(bf16_cpu):
    choice = choose_runtime(precision="bf16")
    assert (choice.runtime, choice.precision) == ("openvino", "bf16")


ASKED_FOR = {
    "onnxruntime": ("onnxruntime", "bundle", "fp32", "fp32"),
    "onnxruntime, fp32 again": ("onnxruntime", "fp32", "fp32", "fp32"),
    "openvino": ("openvino", "bundle", "fp32", "fp32"),
    "openvino, lower": ("openvino", "bf16", "fp32", "bf16"),
    "openvino, bf16 bundle": ("openvino", "bundle", "bf16", "bf16"),
    "tensorrt-rtx": ("tensorrt-rtx", "bundle", "fp32", "fp32"),
    "tensorrt, fp16 bundle": ("tensorrt", "bundle", "fp16", "fp16"),
    "cuda, fp16 bundle": ("cuda", "bundle", "fp16", "fp16"),
}


@pytest.mark.parametrize("name", ASKED_FOR)
def test_what_is_asked_for_is_taken(name, bf16_cpu):
    runtime, precision, bundle_precision, computes_in = ASKED_FOR[name]
    choice = choose_runtime(runtime, precision=precision, bundle_precision=bundle_precision)
    assert choice == choose.Choice(runtime, computes_in, "asked for")


REFUSED = {
    "no such runtime": (
        ("abacus", "bundle", "fp32"),
        "--runtime: no such runtime; got abacus; expected auto, onnxruntime, openvino, "
        "tensorrt-rtx, tensorrt, cuda, onnxruntime-tensorrt, onnxruntime-tensorrt-rtx",
    ),
    "no such precision": (
        ("auto", "int8", "fp32"),
        "--precision: no such precision; got int8; expected bundle, fp32, fp16, bf16",
    ),
    "lower than this runtime can": (
        ("onnxruntime", "bf16", "fp32"),
        "--precision: the runtime 'onnxruntime' does not compute fp32 graphs in this precision; "
        "got bf16; expected fp32. Fix: --runtime openvino",
    ),
    "lower than any can": (
        ("auto", "fp16", "fp32"),
        "--precision: no runtime computes fp32 graphs in this precision; got fp16; "
        "expected bf16 or fp32. Fix: export a bundle with --precision fp16",
    ),
    "higher than the bundle": (
        ("openvino", "fp32", "bf16"),
        "--precision: no runtime computes bf16 graphs in this precision; got fp32; "
        "expected bf16. Fix: export a bundle with --precision fp32",
    ),
    "lower than the card's graphs": (
        ("tensorrt-rtx", "bf16", "fp32"),
        "--precision: the runtime 'tensorrt-rtx' does not compute fp32 graphs in this precision; "
        "got bf16; expected fp32. Fix: --runtime openvino",
    ),
    "a bundle this runtime cannot run": (
        ("onnxruntime", "bundle", "bf16"),
        "--precision: the runtime 'onnxruntime' does not compute bf16 graphs in this precision; "
        "got bf16. Fix: --runtime openvino",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused_and_what_can_is_named(name):
    (runtime, precision, bundle_precision), says = REFUSED[name]
    with pytest.raises(ConfigError) as caught:
        choose_runtime(runtime, precision=precision, bundle_precision=bundle_precision)
    assert str(caught.value) == says


def test_emulated_bf16_is_refused():
    with pytest.raises(ConfigError, match="it would be emulated, slower than fp32") as caught:
        require_native("bf16", {"FP32", "INT8", "BIN"})
    assert "--precision fp32" in str(caught.value)
    require_native("bf16", {"FP32", "BF16"})


def test_a_cpu_without_bf16_is_asked(monkeypatch):
    from cellseg1_rt.backends import openvino

    monkeypatch.setattr(openvino, "cpu_capabilities", lambda: {"FP32"})
    with pytest.raises(ConfigError, match="no instructions for it"):
        choose_runtime("openvino", precision="bf16")


def test_nothing_installed_gives_the_install_line(monkeypatch):
    monkeypatch.setattr(choose, "is_installed", lambda package: False)
    with pytest.raises(RuntimeUnavailableError) as caught:
        choose_runtime()
    assert "no runtime that computes in fp32 is installed" in str(caught.value)
    assert "expected onnxruntime or openvino. Fix" in str(caught.value)
    assert "pip install 'cellseg1-rt[cpu]'" in str(caught.value)


def test_extras_of_the_runtimes_are_real():
    import tomllib
    from pathlib import Path

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for runtime in RUNTIMES.values():
        package = runtime.package.replace("_", "-")
        assert any(line.startswith(package) for line in extras[runtime.extra])


@pytest.fixture
def empty_cache(monkeypatch, tmp_path_factory):
    """No engines in the user's cache, whatever this user has built."""
    cache = str(tmp_path_factory.mktemp("cache"))
    monkeypatch.setenv("LOCALAPPDATA" if os.name == "nt" else "XDG_CACHE_HOME", cache)


@pytest.fixture
def with_engines(tiny_folder, tmp_path, empty_cache):
    """A copy of the packaged bundle with records of engines for sm_89, and empty plans."""
    for path in tiny_folder.iterdir():
        if path.is_file():
            shutil.copy(path, tmp_path)
    manifest = read_manifest(tmp_path)
    values = read_recipe("engine", "rtx40")
    keys = keys_of(manifest, EngineRecipe.from_dict(values), ("sm_89",), tensorrt_rtx.__version__)
    folder = tmp_path / ENGINES_FOLDER
    folder.mkdir()
    empty = hashlib.sha256(b"").hexdigest()
    for key in keys.values():
        record = EngineRecord(key, empty, 0, Figures(1, 1.0, 1, 1), folder)
        record.plan.write_bytes(b"")
        write_record(record)
    return tmp_path, manifest


def card(target: str):
    """Stands for the driver's answer: this machine has no card."""
    return lambda flavor: target


def no_card(flavor: str):
    raise RuntimeUnavailableError("the NVIDIA driver finds no card", where=flavor)


def test_auto_takes_the_card_that_the_bundle_has_engines_for(with_engines, monkeypatch):
    monkeypatch.setattr(tensorrt_library, "present_target", card("sm_89"))
    choice = choose_runtime(engines_of=with_engines)
    assert choice == choose.Choice(
        "tensorrt-rtx", "fp32", "on the card (sm_89), which this bundle has engines for"
    )
    # Nobody said which bundle: there are no engines to take.
    assert choose_runtime().runtime == "onnxruntime"


LEFT = {
    "no card": (no_card, "the NVIDIA driver finds no card"),
    "another card": (
        card("sm_120"),
        "no engines of this bundle for the runtime 'tensorrt-rtx' and this card",
    ),
}


@pytest.mark.parametrize("name", LEFT)
def test_auto_says_why_engines_are_left(name, with_engines, monkeypatch):
    present, missing = LEFT[name]
    monkeypatch.setattr(tensorrt_library, "present_target", present)
    choice = choose_runtime(engines_of=with_engines)
    assert choice.runtime == "onnxruntime"
    assert choice.reason == (
        f"on the CPU, the reference in fp32; its tensorrt-rtx engines are left, since {missing}"
    )


def test_auto_does_not_take_a_damaged_engine_for_none(with_engines, monkeypatch):
    monkeypatch.setattr(tensorrt_library, "present_target", card("sm_89"))
    next((with_engines[0] / ENGINES_FOLDER).glob("encoder*.plan")).write_bytes(b"x")
    with pytest.raises(BundleError, match="damaged engine"):
        choose_runtime(engines_of=with_engines)


def test_auto_with_no_engines_asks_for_no_card(tiny_folder, monkeypatch, empty_cache):
    monkeypatch.setattr(tensorrt_library, "present_target", no_card)
    choice = choose_runtime(engines_of=(tiny_folder, read_manifest(tiny_folder)))
    assert choice.reason == "on the CPU, the reference in fp32"
