"""Which runtime, in which precision, and what is said when there is none."""

from __future__ import annotations

import pytest

from cellseg1_rt.backends import choose
from cellseg1_rt.backends.choose import RUNTIMES, choose_runtime, require_native
from cellseg1_rt.errors import ConfigError, RuntimeUnavailableError

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
}


@pytest.mark.parametrize("name", ASKED_FOR)
def test_what_is_asked_for_is_taken(name, bf16_cpu):
    runtime, precision, bundle_precision, computes_in = ASKED_FOR[name]
    choice = choose_runtime(runtime, precision=precision, bundle_precision=bundle_precision)
    assert choice == choose.Choice(runtime, computes_in, "asked for")


REFUSED = {
    "no such runtime": (
        ("abacus", "bundle", "fp32"),
        "--runtime: no such runtime; got abacus; expected auto, onnxruntime, openvino",
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
    assert "expected onnxruntime or openvino" in str(caught.value)
    assert "pip install 'cellseg1-rt[cpu]'" in str(caught.value)


def test_extras_of_the_runtimes_are_real():
    import tomllib
    from pathlib import Path

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for runtime in RUNTIMES.values():
        assert any(line.startswith(runtime.package) for line in extras[runtime.extra])
