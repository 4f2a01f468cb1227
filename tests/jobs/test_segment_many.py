"""``Model.segment_many``: the next file is read while one is segmented; order and errors stay."""

from __future__ import annotations

import numpy as np
import pytest

import cellseg1_rt
from cellseg1_rt.errors import InputError


@pytest.fixture(scope="module")
def model() -> cellseg1_rt.Model:
    return cellseg1_rt.load("tiny", points_per_side=3)


def test_files_come_in_their_order_and_a_bad_one_when_it_is_its_turn(model, sample, tmp_path):
    pixels = cellseg1_rt.read_image(sample).pixels
    paths = [tmp_path / name for name in ("a.npy", "b.npy", "c.npy")]
    np.save(paths[0], pixels[:101, :97])
    np.save(paths[1], pixels[:89, :103])
    paths[2].write_bytes(b"no image")
    found = model.segment_many(paths)
    for path, shape in zip(paths, [(101, 97), (89, 103)], strict=False):
        source, result = next(found)
        assert source == path
        assert result.labels.shape == shape
        np.testing.assert_array_equal(result.labels, model.segment(np.load(path)).labels)
    with pytest.raises(InputError, match=r"c\.npy"):
        next(found)


def test_resize_and_nothing(model, sample):
    ((_, result),) = model.segment_many([sample], resize=131)
    assert result.labels.shape == (131, 131)
    assert list(model.segment_many([])) == []
