"""A shared library that does not load, for what is said of it."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest


def plugin_with_a_missing_dependency(folder: Path) -> Path:
    """A real shared library whose one dependency has been renamed to one that is nowhere."""
    source = Path(onnxruntime.__file__).parent / "capi" / "libonnxruntime_providers_shared.so"
    if not source.is_file():
        pytest.skip("needs a shared library of ONNX Runtime's Linux wheel")
    content = source.read_bytes()
    assert b"libc.so.6\0" in content
    plugin = folder / "libplugin.so"
    plugin.write_bytes(content.replace(b"libc.so.6\0", b"libq.so.6\0"))
    return plugin
