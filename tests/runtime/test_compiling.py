"""Compiled kernels: kept on disk, and still there where nothing can be written."""

from __future__ import annotations

import pytest
from numba.core import caching

from cellseg1_rt.runtime.kernels.compiling import compiled


def double(x: int) -> int:
    return x + x


def test_kernels_are_kept_on_disk_and_let_other_threads_run():
    kernel = compiled(double)
    assert kernel(3) == 6
    assert kernel.stats.cache_path
    assert kernel.targetoptions["nogil"]


def test_kernels_compile_where_no_folder_can_be_written_to(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(caching.CompileResultCacheImpl, "_locator_classes", [])
    kernel = compiled(double)
    assert kernel(3) == 6
    assert not kernel.stats.cache_path
