"""One graph to one plan, with whichever TensorRT is passed in.

May import nothing but the module it is given: the API of ``tensorrt_rtx`` and ``tensorrt`` is one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cellseg1_rt.backends.tensorrt_library import Log, logger_for
from cellseg1_rt.contract import GRAPHS, GraphSpec, Manifest, TensorSpec
from cellseg1_rt.engine.memory import axis_sizes
from cellseg1_rt.engine.progress import monitor_for
from cellseg1_rt.engine_files import EngineKey, Figures
from cellseg1_rt.errors import BundleError, ConfigError

__all__ = ["build_plan"]

_FIXES = (
    (
        "FP32 GEMM is not supported",
        "export the bundle with --precision fp16, or use --runtime onnxruntime",
    ),
    ("within workspace limit", "raise workspace_mbytes in the recipe, or set it to 0"),
    ("cudaError 35", "install the NVIDIA driver"),
)
"""What to do about what the builder says, as far as it is known."""


def build_plan(
    trt: Any,
    bundle: Path,
    manifest: Manifest,
    key: EngineKey,
    report: Callable[[float], None] = lambda _: None,
) -> tuple[Any, Figures]:
    """Build one engine.

    Parameters
    ----------
    trt : the module of ``key.flavor``.
    bundle, manifest : where the graph lies.
    key : which graph, for which cards, at which sizes.
    report : is told the share done, 0..1.

    Returns
    -------
    The plan, a buffer of bytes in TensorRT's memory, and what the builder said of it.

    Raises
    ------
    BundleError : if the graph cannot be read, or has other tensors than the contract.
    ConfigError : if the builder refuses it, in its own words.
    """
    started = time.perf_counter()
    log = Log()
    builder = trt.Builder(logger_for(trt, log))
    network = builder.create_network(_network_flags(trt))
    graph = bundle / GRAPHS[key.graph].file_name
    parser = trt.OnnxParser(network, builder.logger)
    if not parser.parse_from_file(str(graph)):
        said = parser.get_error(0).desc() if parser.num_errors else log.first_error
        raise BundleError(
            f"{key.flavor} cannot read the graph", where=graph, got=said, fix="export it again"
        )
    _check_tensors(trt, network, key, manifest.graphs[key.graph], graph)
    config = _configure(trt, builder, key, axis_sizes(manifest))
    config.progress_monitor = monitor_for(trt, report)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise _refusal(key, log)
    figures = Figures(
        layers=network.num_layers,
        build_seconds=time.perf_counter() - started,
        activation_bytes=log.bytes_of["activation"],
        weights_bytes=log.bytes_of["weights"],
    )
    return plan, figures


def _network_flags(trt: Any) -> int:
    """Types come from the graph. Where a version knows nothing else, it has no flag for it."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _configure(trt: Any, builder: Any, key: EngineKey, sizes: dict[str, int]) -> Any:
    """The builder's settings: targets, limits, compatibility, one optimisation profile."""
    config = builder.create_builder_config()
    # On by default, and 10 bits of mantissa: a graph in fp32 is computed in fp32.
    config.clear_flag(trt.BuilderFlag.TF32)
    if key.flavor == "tensorrt-rtx":
        config.num_compute_capabilities = len(key.targets)
        for index, target in enumerate(key.targets):
            name = f"SM{target.removeprefix('sm_')}"
            config.set_compute_capability(getattr(trt.ComputeCapability, name), index)
    if key.options["workspace_mbytes"]:
        limit = key.options["workspace_mbytes"] * 10**6
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, limit)
    if key.options["version_compatible"]:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    level = key.options["hardware_compatibility"]
    if level != "none":
        config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, level.upper())
    profile = builder.create_optimization_profile()
    for tensor in GRAPHS[key.graph].inputs:
        if set(tensor.shape) & set(key.profile):
            profile.set_shape(tensor.name, *_shapes(tensor, key, sizes))
    config.add_optimization_profile(profile)
    return config


def _shapes(tensor: TensorSpec, key: EngineKey, sizes: dict[str, int]) -> list[tuple[int, ...]]:
    """The shape of an input at the profile's least, usual and most."""
    spans = [
        {axis: getattr(span, kind) for axis, span in key.profile.items()}
        for kind in ("min", "opt", "max")
    ]
    return [
        tuple(n if isinstance(n, int) else (sizes | rows)[n] for n in tensor.shape)
        for rows in spans
    ]


def _check_tensors(trt: Any, network: Any, key: EngineKey, spec: GraphSpec, graph: Path) -> None:
    """Compare names and types of inputs and outputs with the contract."""
    kinds = trt.DataType
    types = {
        "uint8": kinds.UINT8, "int32": kinds.INT32, "int64": kinds.INT64, "float32": kinds.FLOAT,
        "precision": {"fp32": kinds.FLOAT, "fp16": kinds.HALF, "bf16": kinds.BF16}[key.precision],
    }  # fmt: skip
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    outputs = [network.get_output(index) for index in range(network.num_outputs)]
    for found, expected in ((inputs, spec.inputs), (outputs, spec.outputs)):
        got = [f"{tensor.name} {tensor.dtype.name}" for tensor in found]
        wanted = [f"{tensor.name} {types[tensor.dtype].name}" for tensor in expected]
        if got != wanted:
            raise BundleError(
                f"graph has other tensors than a {key.precision} bundle's",
                where=graph,
                got=", ".join(got),
                expected=", ".join(wanted),
                fix="export the bundle again",
            )


def _refusal(key: EngineKey, log: Log) -> ConfigError:
    said = log.first_error
    return ConfigError(
        f"{key.flavor} {key.version} builds no engine of this graph",
        where=f"{key.graph} in {key.precision} for {', '.join(key.targets)}",
        got=said,
        fix=next((fix for words, fix in _FIXES if words in said), None),
    )
