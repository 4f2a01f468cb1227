"""Which runtime runs a bundle, and in what precision: decided once, said aloud, never changed.

Imports the standard library only; a runtime's library is imported when its backend is made, or when
it has to be asked what this machine can do.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cellseg1_rt.contract import PRECISIONS
from cellseg1_rt.errors import ConfigError, MissingExtraError, RuntimeUnavailableError
from cellseg1_rt.extras import is_installed, require

if TYPE_CHECKING:
    from collections.abc import Collection

    from cellseg1_rt.backends.base import Backend
    from cellseg1_rt.contract import Manifest
    from cellseg1_rt.engine_files import EngineRecord

__all__ = [
    "RUNTIMES",
    "Choice",
    "Runtime",
    "choose_runtime",
    "load_backend",
    "require_native",
    "wants_card",
]


@dataclass(frozen=True)
class Runtime:
    """A runtime library.

    Attributes
    ----------
    package : what must be importable, and ``extra`` what installs it.
    computes : for each precision of a bundle it runs, the precisions it can compute in.
    on_card : it runs on an NVIDIA card.
    engines : it runs what ``build-engine`` makes of a bundle, and not the bundle's graphs.
    """

    package: str
    extra: str
    computes: dict[str, tuple[str, ...]]
    on_card: bool = False
    engines: bool = False

    @property
    def install_line(self) -> str:
        """The command that installs it."""
        return f"pip install 'cellseg1-rt[{self.extra}]'"


_AS_TYPED: dict[str, tuple[str, ...]] = {precision: (precision,) for precision in PRECISIONS}
_WIDE: dict[str, tuple[str, ...]] = {"fp32": ("fp32",), "fp16": ("fp16",)}

RUNTIMES: dict[str, Runtime] = {
    # Of two that can, ``auto`` takes the first: ONNX Runtime in fp32, since all else is compared
    # with it, though OpenVINO is quicker (benchmarks/runtimes.py on Zen 4, 32 prompts: decoding
    # 1.2 times, the mask head 1.8 times). It runs fp16 graphs with fp32 inside: its CPU provider
    # has few fp16 kernels.
    "onnxruntime": Runtime("onnxruntime", "cpu", _WIDE),
    "openvino": Runtime("openvino", "openvino", {"fp32": ("fp32", "bf16"), "bf16": ("bf16",)}),
    "tensorrt-rtx": Runtime("tensorrt_rtx", "rtx", _AS_TYPED, on_card=True, engines=True),
    "tensorrt": Runtime("tensorrt", "tensorrt", _AS_TYPED, on_card=True, engines=True),
    # ONNX Runtime's providers. The CUDA one has too few kernels in bf16.
    "cuda": Runtime("onnxruntime", "gpu", _WIDE, on_card=True),
    "onnxruntime-tensorrt": Runtime("onnxruntime", "gpu", _WIDE, on_card=True),
    # A plugin of the plain ONNX Runtime; the GPU's package has its own.
    "onnxruntime-tensorrt-rtx": Runtime("onnxruntime", "cpu", _WIDE, on_card=True),
}
"""Values of ``--runtime`` besides ``auto``. It takes the first of those with engines that is ready,
or else the first on the CPU that is installed. ONNX Runtime's on the card are taken when asked for.
"""


@dataclass(frozen=True)
class Choice:
    """A runtime, what it computes in, and why it was chosen, for the user to read."""

    runtime: str
    precision: str
    reason: str


def choose_runtime(
    name: str = "auto",
    *,
    precision: str = "bundle",
    bundle_precision: str = "fp32",
    engines_of: tuple[Path, Manifest] | None = None,
) -> Choice:
    """The runtime and precision to use. ``auto`` decides once; nothing falls back later.

    It takes a runtime on the card where library, driver, card and engines of the bundle are there.
    Where only engines are, the reason says what is missing.

    Parameters
    ----------
    name : ``auto`` or one of ``RUNTIMES``.
    precision : ``bundle``, or what to compute in instead: ``fp32``, ``fp16`` or ``bf16``.
    bundle_precision : what the bundle's graphs are typed in.
    engines_of : the bundle whose engines ``auto`` may take; None keeps it on the CPU.

    Raises
    ------
    ConfigError : on a name that is no runtime or no precision, or a precision that the runtime or
        this CPU cannot compute in. What can is named.
    RuntimeUnavailableError : if ``auto`` finds none installed that can.
    BundleError : if ``auto`` finds a damaged engine.
    MissingExtraError : if the runtime has to be asked what it can do and is not installed.
    """
    _require_known("--runtime", name, ("auto", *RUNTIMES))
    _require_known("--precision", precision, ("bundle", *PRECISIONS))
    wanted = bundle_precision if precision == "bundle" else precision
    able = [
        other
        for other, runtime in RUNTIMES.items()
        if wanted in runtime.computes.get(bundle_precision, ())
    ]
    if not able or name not in ("auto", *able):
        raise _cannot(name, wanted, bundle_precision, able)
    if name != "auto":
        chosen, reason = name, "asked for"
    else:
        chosen, reason = _automatic(able, wanted, engines_of)
    if wanted == "bf16" and not RUNTIMES[chosen].on_card:
        from cellseg1_rt.backends.openvino import cpu_capabilities

        require_native(wanted, cpu_capabilities())
    return Choice(chosen, wanted, reason)


def require_native(precision: str, capabilities: Collection[str]) -> None:
    """Raise unless a CPU computes in this precision itself.

    Parameters
    ----------
    precision : ``bf16``.
    capabilities : what the CPU computes natively, by OpenVINO's names (``FP32``, ``BF16``, …).

    Raises
    ------
    ConfigError : if it does not.
    """
    if precision.upper() not in capabilities:
        raise ConfigError(
            "this CPU has no instructions for it (as avx512_bf16, amx_bf16): it would be emulated, "
            "slower than fp32 and less exact",
            where="--precision",
            got=precision,
            expected="fp32",
            fix="--precision fp32, on a bundle of that precision",
        )


def load_backend(choice: Choice, bundle: Path, manifest: Manifest, *, threads: int = 0) -> Backend:
    """The bundle's graphs on the chosen runtime."""
    if RUNTIMES[choice.runtime].engines:
        from cellseg1_rt.backends.tensorrt import load_tensorrt

        return load_tensorrt(bundle, manifest, choice.runtime).backend
    if RUNTIMES[choice.runtime].on_card:
        from cellseg1_rt.backends.onnxruntime_card import load_on_card

        return load_on_card(bundle, manifest, choice.runtime)
    if choice.runtime == "openvino":
        from cellseg1_rt.backends.openvino import OpenVinoBackend

        return OpenVinoBackend(bundle, manifest, precision=choice.precision, threads=threads)
    from cellseg1_rt.backends.onnxruntime import OnnxRuntimeBackend

    return OnnxRuntimeBackend(bundle, manifest, threads=threads)


def wants_card(name: str, bundle: Path, manifest: Manifest) -> bool:
    """Whether a machine with a card would run the bundle on it; asks no library and no driver.

    Parameters
    ----------
    name : ``auto``, which means yes where the bundle has engines, or one of ``RUNTIMES``.
    """
    if name in RUNTIMES:
        return RUNTIMES[name].on_card
    return bool(_own_engines(bundle, manifest))


def _own_engines(bundle: Path, manifest: Manifest) -> list[EngineRecord]:
    """Engines of this bundle alone: an encoder that it shares with other LoRAs runs nothing."""
    from cellseg1_rt.engine_files import own_folders, records_in

    return [record for folder in own_folders(bundle, manifest) for record in records_in(folder)]


def _automatic(
    able: list[str], precision: str, engines_of: tuple[Path, Manifest] | None
) -> tuple[str, str]:
    """Of the runtimes that can, one whose engines the card can run, or one on the CPU; and why."""
    left = ""
    for flavor in (name for name in able if RUNTIMES[name].engines):
        if engines_of is None:
            break
        target, missing = _card_for_engines(flavor, *engines_of)
        if target is not None:
            return flavor, f"on the card ({target}), which this bundle has engines for"
        if missing is not None:
            left += f"; its {flavor} engines are left, since {missing}"
    chosen, reason = _automatic_on_cpu(
        [name for name in able if not RUNTIMES[name].on_card], precision
    )
    return chosen, reason + left


def _card_for_engines(
    flavor: str, bundle: Path, manifest: Manifest
) -> tuple[str | None, str | None]:
    """The card that can run a bundle's engines, or else what is missing, or neither: no engines."""
    from cellseg1_rt.backends.engines import find_engines
    from cellseg1_rt.backends.tensorrt_library import load_library, present_target

    if not any(record.key.flavor == flavor for record in _own_engines(bundle, manifest)):
        return None, None
    try:
        target = present_target(flavor)
        library = load_library(flavor, f"the runtime {flavor!r}")
        require("numba_cuda", extra="rtx", needed_for=f"the runtime {flavor!r}")
        find_engines(bundle, manifest, flavor=flavor, version=library.__version__, target=target)
    except (MissingExtraError, RuntimeUnavailableError) as error:
        return None, error.what
    return target, None


def _automatic_on_cpu(able: list[str], precision: str) -> tuple[str, str]:
    """Of the runtimes on the CPU that can, the first one installed, and the reason."""
    found = [name for name in able if is_installed(RUNTIMES[name].package)]
    if not found:
        raise RuntimeUnavailableError(
            f"no runtime that computes in {precision} is installed",
            where="--runtime auto",
            expected=" or ".join(able),
            fix=RUNTIMES[able[0]].install_line,
        )
    if len(able) == 1:
        return found[0], f"on the CPU, the only runtime for {precision}"
    if len(found) == 1:
        return found[0], f"on the CPU, the only runtime installed for {precision}"
    return found[0], f"on the CPU, the reference in {precision}"


def _require_known(option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        what = "no such runtime" if option == "--runtime" else "no such precision"
        raise ConfigError(what, where=option, got=value, expected=", ".join(known))


def _cannot(name: str, wanted: str, bundle_precision: str, able: list[str]) -> ConfigError:
    """The error for a precision that this runtime, or every runtime, cannot give this bundle."""
    asked = [name] if able else list(RUNTIMES)
    possible = {p for other in asked for p in RUNTIMES[other].computes.get(bundle_precision, ())}
    who = f"the runtime {name!r} does not compute" if able else "no runtime computes"
    return ConfigError(
        f"{who} {bundle_precision} graphs in this precision",
        where="--precision",
        got=wanted,
        expected=" or ".join(sorted(possible)) or None,
        fix=f"--runtime {able[0]}" if able else f"export a bundle with --precision {wanted}",
    )
