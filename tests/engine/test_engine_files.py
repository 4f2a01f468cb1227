"""Keys, records and plans on disk. What lies in these is made up; test_build has real ones."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cellseg1_rt import engine_files
from cellseg1_rt.bundles import PACKAGED
from cellseg1_rt.contract import FileEntry, Manifest
from cellseg1_rt.engine_files import (
    EngineKey,
    EngineRecord,
    Figures,
    Span,
    check_plan,
    default_folder,
    engine_folders,
    read_record,
    records_in,
    write_record,
)
from cellseg1_rt.errors import BundleError

KEY = EngineKey(
    graph="mask_head",
    graph_sha256="1" * 64,
    weights_sha256="2" * 64,
    flavor="tensorrt-rtx",
    version="1.2.3.5",
    targets=("sm_89",),
    precision="fp16",
    profile={"N": Span(1, 5, 7), "M": Span(1, 2, 3)},
    options={"workspace_mbytes": 0},
)
CHANGES: dict[str, Any] = {
    "graph": "encoder",
    "graph_sha256": "3" * 64,
    "weights_sha256": "3" * 64,
    "flavor": "tensorrt",
    "version": "1.2.3.7",
    "targets": ("sm_89", "sm_120"),
    "precision": "bf16",
    "profile": {"N": Span(1, 5, 11), "M": Span(1, 2, 3)},
    "options": {"workspace_mbytes": 1},
}


def make_record(folder: Path, content: bytes = b"a plan") -> EngineRecord:
    digest = hashlib.sha256(content).hexdigest()
    record = EngineRecord(KEY, digest, len(content), Figures(7, 1.5, 11, 13), folder)
    record.plan.write_bytes(content)
    write_record(record)
    return record


def test_every_part_of_a_key_makes_another_engine():
    assert set(CHANGES) == {field.name for field in KEY.__dataclass_fields__.values()}
    digests = {KEY.digest} | {replace(KEY, **{name: CHANGES[name]}).digest for name in CHANGES}
    assert len(digests) == len(CHANGES) + 1
    same = replace(KEY, profile=dict(reversed(KEY.profile.items())))
    assert same.digest == KEY.digest


def test_a_record_comes_back_as_it_was(tmp_path):
    record = make_record(tmp_path)
    assert record.plan.name == f"mask_head.sm_89.fp16.tensorrt-rtx.{KEY.digest[:12]}.plan"
    assert read_record(record.path) == record
    assert records_in(tmp_path) == [record]
    check_plan(record)


def test_a_plan_without_a_record_does_not_count(tmp_path):
    make_record(tmp_path).path.unlink()
    assert records_in(tmp_path) == []
    assert records_in(tmp_path / "none") == []


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda plan: plan.unlink(), "the engine's plan is missing"),
        (lambda plan: plan.write_bytes(b"a pla"), "got 5 bytes; expected 6 bytes"),
        (lambda plan: plan.write_bytes(b"A plan"), "damaged engine: the plan has another SHA-256"),
    ],
    ids=["missing", "short", "changed"],
)
def test_a_damaged_plan(tmp_path, damage, message: str):
    record = make_record(tmp_path)
    damage(record.plan)
    with pytest.raises(BundleError) as caught:
        check_plan(record)
    line = str(caught.value)
    assert line.startswith(str(record.plan))
    assert message in line
    assert line.endswith("Fix: run 'cellseg1-rt build-engine' again with --overwrite")


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("record_version", 2, "got record_version 2"),
        ("record_version", ..., "got no 'record_version'"),
        ("plan_bytes", ..., "got no 'plan_bytes'"),
        ("key.graph", "decoder", "got no graph 'decoder'"),
        ("key.precision", "fp32", "a key that is not the one its name was made of"),
        ("key.color", 3, "unexpected keyword argument 'color'"),
        ("figures.layers", ..., "missing 1 required positional argument: 'layers'"),
        ("key.profile.N", 3, "argument after ** must be a mapping"),
    ],
)
def test_a_record_that_cannot_be_used(tmp_path, name: str, value: Any, message: str):
    path = make_record(tmp_path).path
    values = json.loads(path.read_text())
    *tables, last = name.split(".")
    inner = values
    for table in tables:
        inner = inner[table]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    path.write_text(json.dumps(values))
    with pytest.raises(BundleError) as caught:
        read_record(path)
    assert message in str(caught.value)
    assert "delete it and run 'cellseg1-rt build-engine' again" in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[]", "3"])
def test_a_record_that_is_none(tmp_path, text: str):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(BundleError, match="an engine's record cannot be used"):
        read_record(path)


def test_whether_an_engine_is_of_these_graphs(tmp_path, tiny_manifest: Manifest):
    record = make_record(tmp_path)
    assert not record.is_of(tiny_manifest)
    files = tiny_manifest.files | {
        "mask_head.onnx": FileEntry("1" * 64, 1),
        "weights.safetensors": FileEntry("2" * 64, 1),
    }
    assert record.is_of(replace(tiny_manifest, files=files))
    files["weights.safetensors"] = FileEntry("3" * 64, 1)
    assert not record.is_of(replace(tiny_manifest, files=files))


def test_where_engines_go(tmp_path, tiny_manifest, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "cache"))
    inside, cache = engine_folders(tmp_path, tiny_manifest)
    assert inside == tmp_path / "engines"
    assert cache.parent == tmp_path / "cache" / "cellseg1-rt" / "engines"
    assert default_folder(tmp_path, tiny_manifest) == inside
    # What comes with an installation is not written into.
    assert default_folder(PACKAGED["tiny"], tiny_manifest) == cache
    # The superuser may write anywhere, so the system's answer is replaced, not the permissions.
    monkeypatch.setattr(engine_files.os, "access", lambda _path, _mode: False)
    assert default_folder(tmp_path, tiny_manifest) == cache


def test_the_cache_is_the_homes_where_nothing_else_is_said(tmp_path, tiny_manifest, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("LOCALAPPDATA", raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    _, cache = engine_folders(tmp_path, tiny_manifest)
    assert cache.parent == tmp_path / ".cache" / "cellseg1-rt" / "engines"
