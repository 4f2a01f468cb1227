"""The package as a whole: what importing it costs, where things lie, what the README promises."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = (
    "torch", "onnxruntime", "openvino", "onnx", "segment_anything", "safetensors", "scipy", "cv2",
    "numba", "tensorrt_rtx", "pyarrow", "zarr", "ray",
)  # fmt: skip
COMMANDS = (
    "demo", "segment", "train", "merge", "export", "build-engine", "evaluate", "benchmark",
    "pretrain", "fetch-sam", "info",
)  # fmt: skip

# What an environment without any extra looks like to the import system.
WITHOUT_EXTRAS = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
"""
EXTRAS = {
    "torch", "torchvision", "onnxruntime", "openvino", "onnx", "onnxscript", "onnx_ir",
    "segment_anything", "safetensors", "nibabel", "tensorrt_rtx", "pyarrow", "zarr", "ome_zarr",
    "bioio", "bioio_nd2", "bioio_czi", "bioio_lif", "ray",
}  # fmt: skip


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT
    )


def test_import_is_quick_and_loads_nothing_heavy():
    code = f"""
import sys, time
started = time.perf_counter()
import cellseg1_rt
seconds = time.perf_counter() - started
loaded = [name for name in {HEAVY!r} if name in sys.modules]
assert not loaded, loaded
print(seconds)
"""
    done = [python(code) for _ in range(3)]
    assert all(run.returncode == 0 for run in done), done[0].stderr
    assert min(float(run.stdout) for run in done) < 0.3


def test_the_runtime_never_imports_torch():
    done = python(
        "import sys, cellseg1_rt; cellseg1_rt.load('tiny')\n"
        "bad = [n for n in ('torch', 'onnx', 'safetensors', 'segment_anything') "
        "if n in sys.modules]\n"
        "assert not bad, bad"
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS)], ids=" ".join)
def test_help_works_without_any_extra(command):
    code = WITHOUT_EXTRAS.format(names=EXTRAS) + (
        f"sys.argv = ['cellseg1-rt', *{command!r}, '--help']\n"
        "from cellseg1_rt.cli.main import main; main()"
    )
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


NEEDS_AN_EXTRA = {
    "segment": (("segment", "x.png", "-o", "OUT", "--runtime", "onnxruntime"), "cpu"),
    "segment, auto": (("segment", "x.png", "-o", "OUT"), "cpu"),
    "export": (("export", "x.safetensors", "-o", "OUT"), "train"),
    "build-engine": (("build-engine", "tiny", "--recipe", "rtx40", "-o", "OUT"), "rtx"),
    "merge": (("merge", "--sam", "x.pth", "-o", "OUT/m.safetensors"), "train"),
    "pretrain": (("pretrain", "--data", "x", "-o", "OUT/x.safetensors"), "train"),
}


@pytest.mark.parametrize("name", NEEDS_AN_EXTRA)
def test_a_missing_extra_is_named_with_its_install_line(name, tmp_path):
    arguments, extra = NEEDS_AN_EXTRA[name]
    arguments = [item.replace("OUT", str(tmp_path / "out")) for item in arguments]
    done = python(
        WITHOUT_EXTRAS.format(names=EXTRAS) + f"sys.argv = ['cellseg1-rt', *{arguments!r}]\n"
        "from cellseg1_rt.cli.main import main; main()"
    )
    assert done.returncode == 2, done.stdout
    assert f"pip install 'cellseg1-rt[{extra}]'" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_every_place_of_the_readme_tree_exists():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    places = re.findall(r"^\| `([\w./]+/)`", readme, flags=re.M)
    assert len(places) > 10
    missing = [place for place in places if not (ROOT / place).exists()]
    assert not missing


def test_every_package_is_in_the_readme_tree():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    packages = [
        path.parent.relative_to(ROOT).as_posix()
        for path in (ROOT / "cellseg1_rt").glob("*/__init__.py")
    ]
    assert [name for name in packages if f"`{name}/`" not in readme] == []


def test_readme_python_runs(tmp_path, monkeypatch, sample):
    """The README's Python block, as written, on a sample."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", readme, flags=re.S)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cells.png").write_bytes(sample.read_bytes())
    names: dict[str, object] = {}
    exec(compile(block, "README.md", "exec"), names)  # our own text, run as a reader would
    assert len(names["result"].cells) == names["result"].labels.max() > 0


def test_readme_commands_are_real():
    """Every option that the README shows is in that command's help."""
    from typer.main import get_command

    from cellseg1_rt.cli.main import app

    commands = get_command(app).commands
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = re.findall(r"^cellseg1-rt (\S+)(.*)$", readme, flags=re.M)
    assert {name for name, _ in shown} >= {"segment", "merge", "export"}
    for name, arguments in shown:
        known = {option for parameter in commands[name].params for option in parameter.opts}
        for option in re.findall(r"(?<=\s)--?[a-z][a-z-]*", arguments):
            assert option in known, (name, option)


def test_model_card_code_loads_the_weights_with_segment_anything_alone(
    tmp_path, monkeypatch, tiny_folder
):
    card = (ROOT / "docs" / "tiny.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```py\n(.*?)```", card, flags=re.S)
    assert "cellseg1_rt" not in block
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").symlink_to(tiny_folder)
    names: dict[str, object] = {}
    exec(compile(block, "tiny.md", "exec"), names)
    assert names["sam"].image_encoder.img_size == 512
