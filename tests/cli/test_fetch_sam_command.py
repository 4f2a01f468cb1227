from pathlib import Path
from typing import Any

import pytest

from cellseg1_rt import fetch
from cellseg1_rt.cli.main import main


def run(monkeypatch: pytest.MonkeyPatch, line: str) -> int:
    monkeypatch.setattr("sys.argv", ["cellseg1-rt", *line.split()])
    with pytest.raises(SystemExit) as caught:
        main()
    return caught.value.code or 0


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    made: list[tuple[Any, ...]] = []

    def fetch_sam(name: str, folder: Path, base_url: str | None, progress: Any) -> Path:
        made.append((name, folder, base_url, progress is not None))
        if progress:
            progress(7, None)
            progress(11, 13)
        return folder / f"{name}.pth"

    monkeypatch.setattr(fetch, "fetch_sam", fetch_sam)
    monkeypatch.delenv("CELLSEG1_RT_SAM_URL", raising=False)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    return made


def test_prints_the_path_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, capsys, calls: list[tuple[Any, ...]]
):
    assert run(monkeypatch, "fetch-sam vit_b -o weights") == 0
    assert calls == [("vit_b", Path("weights"), None, False)]
    assert capsys.readouterr() == (f"{Path('weights', 'vit_b.pth')}\n", "")


def test_a_mirror_by_environment(monkeypatch: pytest.MonkeyPatch, calls: list[tuple[Any, ...]]):
    monkeypatch.setenv("CELLSEG1_RT_SAM_URL", "https://mirror.example/sam")
    assert run(monkeypatch, "fetch-sam vit_h") == 0
    assert calls == [("vit_h", Path("."), "https://mirror.example/sam", False)]


def test_a_terminal_gets_a_bar(
    monkeypatch: pytest.MonkeyPatch, capsys, calls: list[tuple[Any, ...]]
):
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert run(monkeypatch, "fetch-sam vit_b") == 0
    assert calls[0][-1] is True
    assert "11/13 bytes" in capsys.readouterr().err


def test_an_error_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys):
    assert run(monkeypatch, "fetch-sam vit_x") == 2
    assert capsys.readouterr().err == (
        "error: vit_x: no such checkpoint; expected one of vit_h, vit_l, vit_b\n"
    )
