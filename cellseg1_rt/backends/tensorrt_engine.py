"""One engine on a card, and the kernels that TensorRT-RTX compiles for it there, kept on disk.

May import nothing but the module it is given, ``tensorrt_rtx`` or ``tensorrt``. All of ``Engine``
runs on a card only.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cellseg1_rt.backends.tensorrt_library import Card, Log, logger_for
from cellseg1_rt.contract import GRAPHS
from cellseg1_rt.engine_files import ENGINES_FOLDER, EngineRecord, user_cache
from cellseg1_rt.errors import RuntimeUnavailableError
from cellseg1_rt.files import atomic_path

__all__ = ["CompiledKernels", "Engine"]


class CompiledKernels:
    """A file of kernels that were compiled on a card, for one engine.

    It lies beside the plan, or in the user's cache where that folder is read-only. Its name is of
    the card and the driver, so that machines which share a folder do not overwrite each other's.
    """

    def __init__(self, record: EngineRecord, card: Card) -> None:
        folder = record.folder
        if not os.access(folder, os.W_OK):
            folder = user_cache() / ENGINES_FOLDER
        place = hashlib.sha256(f"{card.name}\n{card.driver}".encode()).hexdigest()[:12]
        self.path: Path = folder / f"{record.key.stem}.{place}.kernels"
        self._kept = b""

    def read(self) -> bytes:
        """What was kept; nothing where nothing was."""
        try:
            self._kept = self.path.read_bytes()
        except FileNotFoundError:
            self._kept = b""
        return self._kept

    def write(self, content: bytes) -> None:
        """Keep this, whole or not at all. A disk that has no room for it costs the next start."""
        if content == self._kept:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_path(self.path) as temporary:
                temporary.write_bytes(content)
        except OSError as error:
            warnings.warn(
                f"{self.path}: compiled kernels cannot be kept, so that the next start compiles "
                f"them again; got {error.strerror}",
                stacklevel=2,
            )
        self._kept = content


class Engine:
    """An engine that was read back; see ``Runner`` for its two methods.

    Raises
    ------
    RuntimeUnavailableError : if the library cannot load the plan.
    """

    def __init__(self, trt: Any, record: EngineRecord, card: Card) -> None:
        self._log = Log()
        self._runtime = trt.Runtime(logger_for(trt, self._log))
        self._engine = self._runtime.deserialize_cuda_engine(record.plan.read_bytes())
        if self._engine is None:
            raise RuntimeUnavailableError(
                f"the runtime {record.key.flavor!r} cannot load this engine",
                where=record.plan,
                got=self._log.first_error,
                fix="build it again with this version, for this card",
            )
        self._outputs = [tensor.name for tensor in GRAPHS[record.key.graph].outputs]
        self._kernels: CompiledKernels | None = None
        self._cache: Any = None
        if record.key.flavor == "tensorrt-rtx":
            self._kernels = CompiledKernels(record, card)
            settings = self._configured(trt, self._kernels.read())
            self._context = self._engine.create_execution_context(settings)
        else:
            self._context = self._engine.create_execution_context()

    def _configured(self, trt: Any, kept: bytes) -> Any:
        """TensorRT-RTX's settings: what it compiled before, kernels for each shape, CUDA graphs."""
        config = self._engine.create_runtime_config()
        self._cache = config.create_runtime_cache()
        if kept:
            # False where it is damaged or from elsewhere: then they are compiled again.
            self._cache.deserialize(kept)
        config.set_runtime_cache(self._cache)
        # Compiled before a shape's first call, not beside it: a call gives the same each time.
        config.dynamic_shapes_kernel_specialization_strategy = (
            trt.DynamicShapesKernelSpecializationStrategy.EAGER
        )
        config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        return config

    def run(self, tensors: Mapping[str, Any], stream: Any) -> None:
        """Queue one call; see ``Runner.run``."""
        for name, array in tensors.items():
            if name not in self._outputs:
                self._context.set_input_shape(name, array.shape)
            address = array.__cuda_array_interface__["data"][0]
            self._context.set_tensor_address(name, address)
        if not self._context.execute_async_v3(int(stream)):
            raise RuntimeUnavailableError("an engine did not run", got=self._log.first_error)

    def keep(self) -> None:
        """Keep the kernels compiled so far; see ``Runner.keep``. TensorRT compiles none."""
        if self._kernels is not None:
            self._kernels.write(bytes(self._cache.serialize()))
