"""A built wheel in a clean environment, outside the checkout: what a user gets from an install.

Run by ``make test`` before pytest, with the wheel as its argument, because it installs packages and
pytest's tests do without a network.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

COMMANDS = (
    "demo", "segment", "train", "merge", "export", "build-engine", "evaluate", "benchmark",
    "pretrain", "fetch-sam", "info",
)  # fmt: skip


def main(wheel: Path) -> None:
    wheel = wheel.resolve()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        venv.create("env", with_pip=True)
        programs = Path(folder, "env", "bin")
        pip = [programs / "python", "-m", "pip", "install", "--quiet"]

        run([*pip, str(wheel)])
        for command in ((), *((name,) for name in COMMANDS)):
            assert "Usage" in run([programs / "cellseg1-rt", *command, "--help"]).stdout
        samples = run(
            [programs / "python", "-c", "import cellseg1_rt.bundles as b; print(b.SAMPLES)"]
        ).stdout.strip()
        assert Path(samples).is_relative_to(Path(folder).resolve()), samples
        image = sorted(Path(samples, "images").iterdir())[0]
        segment = [programs / "cellseg1-rt", "segment", image, "-m", "tiny", "-o", "out"]

        refused = run(segment, code=2)
        assert "pip install 'cellseg1-rt[cpu]'" in refused.stderr, refused.stderr
        assert not Path("out").exists()

        run([*pip, f"{wheel}[cpu]"])
        done = run(segment)
        assert "1 of 1 images done" in done.stdout, done.stdout
        written = sorted(path.name for path in Path("out").iterdir())
        outputs = [f"{image.stem}_cells.csv", f"{image.stem}_labels.tif"]
        assert written == [*outputs, "job.html", "job.json", "journal.jsonl"], written
        recipes = "from cellseg1_rt.recipes import recipe_names; print(recipe_names('export'))"
        assert "vit_h" in run([programs / "python", "-c", recipes]).stdout
        engines = recipes.replace("'export'", "'engine'")
        assert "rtx40" in run([programs / "python", "-c", engines]).stdout
    print(f"{wheel.name}: installs, answers every --help without extras, and segments with [cpu]")


def run(command: list[object], code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False
    )
    assert done.returncode == code, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


if __name__ == "__main__":
    main(Path(sys.argv[1]))
