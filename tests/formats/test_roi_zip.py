from __future__ import annotations

import zipfile

import numpy as np
import pytest
from label_scenes import EMPTY, LARGE, SMALL, many_cells
from plain_filling import plain_polygon
from roifile import ROI_TYPE, ImagejRoi, roiread

from cellseg1_rt.errors import InputError
from cellseg1_rt.formats import read_annotation, write_roi_zip

SCENES = SMALL | LARGE


@pytest.mark.parametrize("labels", SCENES.values(), ids=SCENES)
def test_the_reader_gives_the_same_labels(tmp_path, labels):
    write_roi_zip(tmp_path / "cells.zip", labels)
    found = read_annotation(tmp_path / "cells.zip", labels.shape)
    np.testing.assert_array_equal(found, labels)


@pytest.mark.parametrize("labels", SMALL.values(), ids=SMALL)
def test_what_roifile_reads_fills_to_the_pixels(tmp_path, labels):
    write_roi_zip(tmp_path / "cells.zip", labels)
    rois = roiread(tmp_path / "cells.zip")
    assert [roi.name for roi in rois] == [str(n) for n in range(1, labels.max() + 1)]
    for number, roi in enumerate(rois, 1):
        rings = roi.coordinates(multi=True) if roi.composite else [roi.coordinates()]
        assert roi.roitype == (ROI_TYPE.RECT if roi.composite else ROI_TYPE.TRACED)
        rows, columns = np.nonzero(labels == number)
        assert (roi.top, roi.bottom) == (rows.min(), rows.max() + 1)
        assert (roi.left, roi.right) == (columns.min(), columns.max() + 1)
        np.testing.assert_array_equal(plain_polygon(rings, labels.shape), labels == number)


def test_only_cells_with_holes_or_several_pieces_are_composite(tmp_path):
    for name, composite in [("touching", False), ("hole", True), ("two_pieces", True)]:
        write_roi_zip(tmp_path / "cells.zip", SMALL[name])
        assert roiread(tmp_path / "cells.zip")[0].composite is composite


def test_more_cells_than_16_bits_can_number(tmp_path):
    labels = many_cells()
    write_roi_zip(tmp_path / "cells.zip", labels)
    with zipfile.ZipFile(tmp_path / "cells.zip") as archive:
        assert archive.namelist() == [f"{n}.roi" for n in range(1, labels.max() + 1)]
        last = ImagejRoi.frombytes(archive.read(f"{labels.max()}.roi"))
    assert last.name == str(labels.max()) == "68382"
    assert last.coordinates().tolist() == [[520, 522], [521, 522], [521, 523], [520, 523]]


def test_regions_are_in_pixels_of_the_image(tmp_path):
    write_roi_zip(tmp_path / "cells.zip", SMALL["hole"], (1.75, 0.5))
    (roi,) = roiread(tmp_path / "cells.zip")
    outer = max(roi.coordinates(multi=True), key=len)
    assert outer.min(axis=0).tolist() == [1.75, 0.5]
    write_roi_zip(tmp_path / "cells.zip", SMALL["full"], (1.75, 0.5))
    (roi,) = roiread(tmp_path / "cells.zip")
    assert roi.coordinates().tolist() == [[0, 0], [12.25, 0], [12.25, 2.5], [0, 2.5]]
    assert (roi.left, roi.top, roi.right, roi.bottom) == (0, 0, 13, 3)


def test_far_from_the_origin(tmp_path):
    labels = np.zeros((3, 60_527), np.uint8)
    labels[1, 40_009:] = labels[2, 60_521] = 1
    write_roi_zip(tmp_path / "cells.zip", labels)
    np.testing.assert_array_equal(read_annotation(tmp_path / "cells.zip", labels.shape), labels)


def test_an_image_too_large_is_refused(tmp_path):
    with pytest.raises(InputError, match="too large for ImageJ regions; got 60,536 px a side"):
        write_roi_zip(tmp_path / "cells.zip", np.ones((1, 60_536), np.uint8))
    assert not any(tmp_path.iterdir())


def test_no_cells_is_an_empty_zip(tmp_path):
    write_roi_zip(tmp_path / "cells.zip", EMPTY)
    assert zipfile.ZipFile(tmp_path / "cells.zip").namelist() == []


def test_the_bytes_do_not_depend_on_the_time(tmp_path):
    for name in "ab":
        write_roi_zip(tmp_path / name, SMALL["comb"])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    (member,) = zipfile.ZipFile(tmp_path / "a").infolist()
    assert (member.date_time, member.create_system) == ((1980, 1, 1, 0, 0, 0), 0)
