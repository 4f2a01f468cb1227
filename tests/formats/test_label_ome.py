from __future__ import annotations

import numpy as np
import pytest
import tifffile
from label_scenes import EMPTY, LARGE, many_cells

from cellseg1_rt.errors import InputError
from cellseg1_rt.formats import read_image, read_labels, write_label_ome_tiff

SCENES = {"blobs": LARGE["blobs"], "sample": LARGE["sample_tissue"], "empty": EMPTY}
SCENES |= {"many": many_cells(), "wide": LARGE["noise"].astype(np.int64)[:1]}


@pytest.mark.parametrize("pixel_size", [None, (0.5, 0.25)], ids=str)
@pytest.mark.parametrize("labels", SCENES.values(), ids=SCENES)
def test_tifffile_reads_labels_axes_and_pixel_size(tmp_path, labels, pixel_size):
    path = tmp_path / "a.ome.tif"
    write_label_ome_tiff(path, labels, pixel_size)
    with tifffile.TiffFile(path) as tif:
        assert tif.is_ome
        assert tif.series[0].axes == "YX"
        assert tif.pages[0].compression == tifffile.COMPRESSION.ADOBE_DEFLATE
        assert "DateTime" not in tif.pages[0].tags
        found = tif.asarray()
        (pixels,) = [tifffile.xml2dict(tif.ome_metadata)["OME"]["Image"]["Pixels"]]
    assert found.dtype == (np.uint16 if labels.max() < 65_536 else np.uint32)
    np.testing.assert_array_equal(found, labels)
    assert (pixels["SizeY"], pixels["SizeX"]) == labels.shape
    if pixel_size is None:
        assert "PhysicalSizeX" not in pixels
    else:
        assert (pixels["PhysicalSizeY"], pixels["PhysicalSizeX"]) == pixel_size
        assert (pixels["PhysicalSizeYUnit"], pixels["PhysicalSizeXUnit"]) == ("µm", "µm")


def test_this_packages_readers_agree(tmp_path):
    path = tmp_path / "a.ome.tif"
    write_label_ome_tiff(path, LARGE["blobs"], (0.5, 0.25))
    np.testing.assert_array_equal(read_labels(path), LARGE["blobs"])
    assert read_image(path).pixel_size_um == (0.5, 0.25)


def test_equal_labels_give_equal_bytes_and_others_another_identity(tmp_path):
    labels = LARGE["blobs"]
    for name, size in (("a", None), ("b", None), ("c", (0.5, 0.25))):
        write_label_ome_tiff(tmp_path / name, labels, size)
    write_label_ome_tiff(tmp_path / "d", labels[::-1])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    identities = [
        path.read_bytes().split(b'UUID="urn:uuid:')[1][:36] for path in tmp_path.iterdir()
    ]
    assert len(set(identities)) == 3


def test_what_is_no_label_map_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"not a label map; got float64 \(3, 5\); expected integ"):
        write_label_ome_tiff(tmp_path / "a.ome.tif", np.zeros((3, 5)))
    assert not any(tmp_path.iterdir())
