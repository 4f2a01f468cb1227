"""One engine without a card: what is asked of TensorRT, in its own names, and the kernels' file.

What stands in for TensorRT's runtime has the attributes of the installed library's classes and no
others, so that a name the library does not have is an error here too.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pytest
import tensorrt_rtx as trt

from cellseg1_rt.backends.tensorrt_engine import CompiledKernels, Engine
from cellseg1_rt.backends.tensorrt_library import Card
from cellseg1_rt.contract import GRAPHS, read_manifest
from cellseg1_rt.engine.build import keys_of
from cellseg1_rt.engine.recipe import EngineRecipe
from cellseg1_rt.engine_files import EngineRecord, Figures
from cellseg1_rt.errors import RuntimeUnavailableError
from cellseg1_rt.recipes import read_recipe

CARD = Card("NVIDIA GeForce RTX 4070", "sm_89", "580.82.07")


@pytest.fixture
def record(tiny_folder, tmp_path) -> EngineRecord:
    recipe = EngineRecipe.from_dict(read_recipe("engine", "rtx40"))
    keys = keys_of(read_manifest(tiny_folder), recipe, ("sm_89",), "1.7.1")
    made = EngineRecord(keys["mask_head"], "0" * 64, 4, Figures(1, 1.0, 1, 1), tmp_path)
    made.plan.write_bytes(b"plan")
    return made


class Library:
    """A TensorRT whose runtime is made of its own classes' names; ``runs`` and ``loads`` or not."""

    def __init__(self, kernels: bytes = b"compiled", runs: bool = True, loads: bool = True) -> None:
        self.context = MagicMock(spec=trt.IExecutionContext)
        self.context.execute_async_v3.return_value = runs
        self.cache = MagicMock(spec=trt.IRuntimeCache)
        self.cache.serialize.return_value = kernels
        self.config = MagicMock(spec=trt.IRuntimeConfig)
        self.config.create_runtime_cache.return_value = self.cache
        self.engine = MagicMock(spec=trt.ICudaEngine)
        self.engine.create_runtime_config.return_value = self.config
        self.engine.create_execution_context.return_value = self.context
        self.runtime = MagicMock(spec=trt.Runtime)
        self.runtime.deserialize_cuda_engine.return_value = self.engine if loads else None
        self.module = SimpleNamespace(
            Runtime=lambda logger: self.runtime,
            ILogger=trt.ILogger,
            CudaGraphStrategy=trt.CudaGraphStrategy,
            DynamicShapesKernelSpecializationStrategy=trt.DynamicShapesKernelSpecializationStrategy,
        )


def tensors() -> dict[str, SimpleNamespace]:
    names = [t.name for t in (*GRAPHS["mask_head"].inputs, *GRAPHS["mask_head"].outputs)]
    return {
        name: SimpleNamespace(
            shape=(number, 3), __cuda_array_interface__={"data": (4096 * number, False)}
        )
        for number, name in enumerate(names, 1)
    }


def test_a_call_binds_every_tensor_and_shapes_of_inputs(record):
    library = Library()
    Engine(library.module, record, CARD).run(tensors(), np.int64(29))
    assert library.runtime.deserialize_cuda_engine.call_args.args == (b"plan",)
    context = library.context
    assert [call.args for call in context.set_tensor_address.call_args_list] == [
        ("keys", 4096), ("hyper", 8192), ("index", 12288), ("logits", 16384),
    ]  # fmt: skip
    assert [call.args for call in context.set_input_shape.call_args_list] == [
        ("keys", (1, 3)), ("hyper", (2, 3)), ("index", (3, 3)),
    ]  # fmt: skip
    context.execute_async_v3.assert_called_once_with(29)


def test_rtx_captures_graphs_and_compiles_before_a_shapes_first_call(record):
    library = Library()
    Engine(library.module, record, CARD)
    assert library.config.cuda_graph_strategy == trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    assert library.config.dynamic_shapes_kernel_specialization_strategy == (
        trt.DynamicShapesKernelSpecializationStrategy.EAGER
    )
    library.config.set_runtime_cache.assert_called_once_with(library.cache)
    library.engine.create_execution_context.assert_called_once_with(library.config)


def test_tensorrt_has_no_such_settings(record):
    library = Library()
    key = replace(record.key, flavor="tensorrt")
    other = replace(record, key=key)
    other.plan.write_bytes(b"plan")
    Engine(library.module, other, CARD).keep()
    library.engine.create_runtime_config.assert_not_called()
    library.engine.create_execution_context.assert_called_once_with()
    assert list(other.folder.glob("*.kernels")) == []


def test_what_was_compiled_is_read_by_the_next(record):
    first = Library(b"compiled for three shapes")
    engine = Engine(first.module, record, CARD)
    first.cache.deserialize.assert_not_called()
    engine.keep()
    (kept,) = record.folder.glob("*.kernels")
    assert kept.read_bytes() == b"compiled for three shapes"
    second = Library()
    Engine(second.module, record, CARD)
    second.cache.deserialize.assert_called_once_with(b"compiled for three shapes")


def test_what_does_not_load_or_run_is_named(record):
    with pytest.raises(RuntimeUnavailableError, match="cannot load this engine; got nothing in"):
        Engine(Library(loads=False).module, record, CARD)
    engine = Engine(Library(runs=False).module, record, CARD)
    with pytest.raises(RuntimeUnavailableError, match="an engine did not run"):
        engine.run(tensors(), np.int64(1))


@pytest.mark.parametrize(
    "other",
    [
        Card("NVIDIA GeForce RTX 4080", "sm_89", "580.82.07"),
        Card("NVIDIA GeForce RTX 4070", "sm_89", "590.1"),
        Card("NVIDIA GeForce RTX 4070", "sm_89", None),
    ],
)
def test_another_card_or_driver_has_a_file_of_its_own(record, other: Card):
    assert CompiledKernels(record, other).path != CompiledKernels(record, CARD).path
    assert CompiledKernels(record, other).path.parent == record.folder


def test_the_same_kernels_are_not_written_again(record):
    kernels = CompiledKernels(record, CARD)
    assert kernels.read() == b""
    kernels.write(b"once")
    kernels.path.unlink()
    kernels.write(b"once")
    assert not kernels.path.exists()
    kernels.write(b"more")
    assert CompiledKernels(record, CARD).read() == b"more"
    assert [path.suffix for path in record.folder.iterdir()].count(".kernels") == 1


def test_a_read_only_folder_has_them_in_the_users_cache(record, monkeypatch, tmp_path):
    name = "LOCALAPPDATA" if os.name == "nt" else "XDG_CACHE_HOME"
    monkeypatch.setenv(name, str(tmp_path / "cache"))
    monkeypatch.setattr(os, "access", lambda folder, mode: False)
    kernels = CompiledKernels(record, CARD)
    assert kernels.path.parent == tmp_path / "cache" / "cellseg1-rt" / "engines"
    kernels.write(b"compiled")
    assert kernels.read() == b"compiled"


def test_no_room_for_them_is_told_of(record):
    kernels = CompiledKernels(record, CARD)
    kernels.path = Path(os.devnull) / "kernels"
    with pytest.warns(UserWarning, match="compiled kernels cannot be kept"):
        kernels.write(b"compiled")
