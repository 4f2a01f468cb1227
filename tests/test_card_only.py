"""What only a card really runs is thin, and docs/gpu.md lists it with what is checked instead.

    python tests/test_card_only.py

puts the list's lines, counted anew, into that page.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "gpu.md"
MARK = "<!-- tests/test_card_only.py -->"

# Functions and classes whose calls of a driver or of a library meet a stand-in in the suite, and
# what that is. Whoever adds one adds it here, and the lines to the page.
NAMED = "objects with the attributes of TensorRT-RTX's own classes, and no others"
NOTED = "a driver that notes what is asked of it"
SIMULATED = "numba's simulator; each kernel also compiles for six generations"
ONLY_ON_A_CARD = {
    ("backends/tensorrt_engine.py", "Engine"): NAMED,
    ("backends/cuda_graphs.py", "DriverCapture"): NOTED,
    ("backends/tensorrt_library.py", "present_card"): NOTED,
    ("backends/tensorrt_library.py", "_driver_release"): NOTED,
    (
        "backends/tensorrt.py",
        "TensorRtBackend",
    ): "numba's simulator, ONNX Runtime in an engine's place",
    ("backends/tensorrt.py", "load_tensorrt"): "the same, and records without plans",
    (
        "backends/onnxruntime_card.py",
        "OnnxRuntimeOnCard",
    ): "the CPU provider, bound to its own memory",
    ("backends/onnxruntime_card.py", "load_on_card"): "sessions that name their provider",
    ("backends/cards.py", "visible_cards"): "nothing: tests replace it",
    ("backends/cards.py", "on_card"): "nothing: tests replace it",
    ("runtime/on_cuda.py", None): SIMULATED,
    ("runtime/kernels/cuda.py", None): SIMULATED,
}


def lines_of(file: str, name: str | None) -> int:
    """Lines with code: no docstrings, comments or blanks."""
    text = (ROOT / "cellseg1_rt" / file).read_text(encoding="utf-8")
    tree = ast.parse(text)
    wanted = [node for node in tree.body if name is None or getattr(node, "name", None) == name]
    assert wanted, f"{file} has no {name}"
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    strings = {
        line
        for node in ast.walk(tree)
        if isinstance(node, documented) and ast.get_docstring(node) is not None
        for line in range(node.body[0].lineno, node.body[0].end_lineno + 1)
    }
    source = text.splitlines()
    return sum(
        1
        for node in wanted
        for line in range(node.lineno, node.end_lineno + 1)
        if line not in strings
        and source[line - 1].strip()
        and not source[line - 1].strip().startswith("#")
    )


def table() -> str:
    rows = [
        (f"`{file}`" + (f", `{name}`" if name else ""), lines_of(file, name), instead)
        for (file, name), instead in ONLY_ON_A_CARD.items()
    ]
    total = sum(lines for _, lines, _ in rows)
    lines = ["| where | lines | what runs it in the suite |", "|---|---|---|"]
    lines += [f"| {where} | {count} | {instead} |" for where, count, instead in rows]
    return "\n".join([*lines, f"| together | {total} | |"])


def test_the_page_lists_them_with_their_lines():
    parts = PAGE.read_text(encoding="utf-8").split(MARK)
    assert len(parts) == 3
    assert parts[1].strip() == table(), f"put this between the marks:\n{table()}"


ASKS = re.compile(
    r"^\s*(import numba\.cuda|from numba import cuda)|ctypes\.CDLL\(|\.execute_async_v3\(", re.M
)
"""What code for a card asks with. ``backends/providers.py`` loads a library and asks it nothing."""


def test_nothing_else_asks_a_driver_or_a_card():
    package = ROOT / "cellseg1_rt"
    asking = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if ASKS.search(path.read_text(encoding="utf-8"))
    }
    assert asking <= {file for file, _ in ONLY_ON_A_CARD} | {"backends/providers.py"}
    assert "backends/tensorrt_engine.py" in asking


if __name__ == "__main__":
    before, _, after = PAGE.read_text(encoding="utf-8").split(MARK)
    PAGE.write_text(f"{before}{MARK}\n{table()}\n{MARK}{after}", encoding="utf-8")
