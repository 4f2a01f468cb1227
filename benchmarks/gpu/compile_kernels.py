"""The CUDA kernels compiled for every generation of cards, with no GPU: registers and spills.

    pip install 'numba-cuda[cu13]' nvidia-cuda-nvcc
    python benchmarks/gpu/compile_kernels.py [--update docs/gpu.md]

``ptxas`` of NVIDIA's package says what a thread of each kernel needs. ``--update`` puts the table
between the two marks of that page.
"""

from __future__ import annotations

import re
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import numba.cuda
import numba.cuda.dispatcher
import typer
from numba import types

from cellseg1_rt.runtime.kernels import cuda as kernels
from cellseg1_rt.runtime.resample import AxisMap

TARGETS = ((7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (12, 0))
"""RTX 20, A100, RTX 30, RTX 40, H100, RTX 50."""

MARK = "<!-- benchmarks/gpu/compile_kernels.py -->"

i32, i64, u32, f32 = types.int32, types.int64, types.uint32, types.float32


def _array(of: Any, dimensions: int) -> Any:
    return types.Array(of, dimensions, "C")


_AXIS = types.NamedTuple(
    [_array(f32 if name.endswith("share") else i32, 1) for name in AxisMap._fields], AxisMap
)

SIGNATURES: dict[str, tuple[Any, ...]] = {
    "find_extents": (
        _array(f32, 3), _array(i32, 3), f32, _array(i32, 3), _array(i32, 2), _array(i32, 1),
    ),
    "evaluate_masks": (
        _array(f32, 3), _array(i32, 3), _array(i32, 2), _AXIS, _AXIS, i64, f32, _array(i64, 1),
        _array(u32, 1), _array(i32, 2), _array(i32, 2),
    ),
    "gather_words": (
        _array(u32, 1), _array(i64, 1), _array(i32, 2), i64, _array(i64, 1), _array(i32, 2),
        _array(i64, 1), _array(u32, 1),
    ),
    "find_conflicts": (
        _array(i64, 1), _array(i32, 2), _array(i32, 2), _array(i64, 1), _array(i64, 1),
        _array(u32, 1), f32, _array(u32, 2),
    ),
    "settle": (_array(u32, 2), _array(u32, 1), _array(u32, 1), _array(i32, 1)),
}  # fmt: skip
"""The types with which ``on_cuda`` calls each kernel."""


@dataclass(frozen=True)
class Needs:
    """What a kernel needs on one target: registers a thread, bytes spilled, shared bytes."""

    registers: int
    spilled_bytes: int
    shared_bytes: int


@contextmanager
def no_device(target: tuple[int, int]) -> Iterator[None]:
    """Let numba compile device functions where it finds no card to ask for its generation."""
    before = numba.cuda.dispatcher.get_current_device
    numba.cuda.dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=target)
    try:
        yield
    finally:
        numba.cuda.dispatcher.get_current_device = before


def ptx_of(kernel: str, target: tuple[int, int]) -> str:
    """PTX of a kernel for a compute capability (major, minor)."""
    function = getattr(kernels, kernel).py_func
    with no_device(target):
        ptx, _ = numba.cuda.compile_ptx(
            function, types.void(*SIGNATURES[kernel]), device=False, cc=target
        )
    return str(ptx)


def find_ptxas() -> Path:
    """``ptxas`` of the installed package nvidia-cuda-nvcc."""
    site = Path(sysconfig.get_paths()["purelib"])
    found = sorted(site.glob("nvidia/**/bin/ptxas"))
    if not found:
        raise typer.BadParameter("ptxas is not installed. Fix: pip install nvidia-cuda-nvcc")
    return found[-1]


def needs_of(ptx: str, target: tuple[int, int], ptxas: Path) -> Needs:
    """What ``ptxas -v`` says of a kernel."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "kernel.ptx"
        source.write_text(ptx)
        done = subprocess.run(
            [ptxas, "-v", f"-arch=sm_{target[0]}{target[1]}", "-o", "/dev/null", source],
            capture_output=True,
            text=True,
            check=True,
        )
    said = done.stdout + done.stderr
    spills = [int(n) for n in re.findall(r"(\d+) bytes spill", said)]
    shared = re.search(r"(\d+) bytes smem", said)
    registers = re.search(r"Used (\d+) registers", said)
    return Needs(
        int(registers[1]) if registers else 0, sum(spills), int(shared[1]) if shared else 0
    )


def main(update: Annotated[Path | None, typer.Option()] = None) -> None:
    """Print registers a thread and bytes spilled of each kernel on each target."""
    ptxas = find_ptxas()
    heads = [f"sm_{major}{minor}" for major, minor in TARGETS]
    lines = [f"| kernel | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for kernel in SIGNATURES:
        needs = [needs_of(ptx_of(kernel, target), target, ptxas) for target in TARGETS]
        cells = [f"{need.registers}, {need.spilled_bytes}" for need in needs]
        lines.append(f"| `{kernel}` | {' | '.join(cells)} |")
    table = "\n".join(lines)
    print(table)
    if update is not None:
        before, _, after = update.read_text(encoding="utf-8").split(MARK)
        update.write_text(f"{before}{MARK}\n{table}\n{MARK}{after}", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
