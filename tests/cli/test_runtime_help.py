"""Commands that take a runtime name all of them in their help."""

from __future__ import annotations

import re

import pytest

from cellseg1_rt.backends.choose import RUNTIMES


@pytest.mark.parametrize("command", ["benchmark", "demo"])
def test_help_names_every_runtime(run_command, monkeypatch, command: str):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "dumb")
    done = run_command(command, "--help")
    words = set(re.findall(r"[\w-]+", done.out))
    assert {"auto", *RUNTIMES} <= words
