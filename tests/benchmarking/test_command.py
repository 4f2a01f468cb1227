"""The command line: options become a request, a report becomes lines and a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from cellseg1_rt.benchmarking import run, table
from cellseg1_rt.cli.benchmark import benchmark


class Reported:
    def to_json(self) -> str:
        return '{"format": 1}\n'


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[run.Request]:
    requests: list[run.Request] = []

    def note(request: run.Request, say: object) -> Reported:
        requests.append(request)
        return Reported()

    monkeypatch.setattr(run, "run_benchmark", note)
    monkeypatch.setattr(table, "lines_of", lambda report: ["one line", "another"])
    return requests


def invoke(*arguments: object) -> str:
    app = typer.Typer()
    app.command()(benchmark)
    done = CliRunner().invoke(app, list(map(str, arguments)))
    assert done.exit_code == 0, done.output
    return done.stdout


def test_defaults_are_the_request_s(asked: list[run.Request]):
    assert invoke("tiny") == "one line\nanother\n"
    assert asked == [run.Request("tiny")]


def test_options(asked: list[run.Request], tmp_path: Path):
    file = tmp_path / "new" / "out.json"
    invoke(
        *("some/bundle", "a.png", "b*.png", "--runtime", "onnxruntime", "--runtime", "openvino"),
        *("--precision", "fp32", "--precision", "bf16", "--crops", 1, "--points", 7),
        *("--prompt-batch", 13, "--repeats", 5, "--threads", 2, "--against", "plain"),
        *("--memory", "--json", file),
    )
    assert asked == [
        run.Request(
            "some/bundle",
            ("a.png", "b*.png"),
            runtimes=("onnxruntime", "openvino"),
            precisions=("fp32", "bf16"),
            threads=2,
            prompt_batch=13,
            repeats=5,
            against="plain",
            memory=True,
            settings={"crops": 1, "points_per_side": 7},
        )
    ]
    assert json.loads(file.read_text()) == {"format": 1}
