"""Cut off and changed files of every kind: labels of the right size, or one line that says why."""

from __future__ import annotations

import io
import json
import zipfile

import numpy as np
import pytest
import tifffile
from PIL import Image as Pillow
from roifile import ROI_TYPE, ImagejRoi

from cellseg1_rt.errors import InputError
from cellseg1_rt.formats import read_annotation

SHAPE = (23, 31)
LABELS = np.zeros(SHAPE, np.uint16)
LABELS[3:9, 4:12], LABELS[12:20, 2:9], LABELS[5:17, 16:29] = 1, 2, 3
RING = [[4.0, 3.5], [12.25, 3.0], [12.0, 9.5], [4.0, 9.0]]
TRIANGLE = [[16, 5], [29, 6], [20, 17]]


def in_memory(write):
    file = io.BytesIO()
    write(file)
    return file.getvalue()


def roi_zip():
    rois = [ImagejRoi.frompoints(np.array(TRIANGLE)), ImagejRoi.frompoints(np.array(RING))]
    rois.append(ImagejRoi(roitype=ROI_TYPE.OVAL, left=2, top=12, right=9, bottom=20))
    path = np.array([0, 2, 2, 1, 9, 2, 3, 9, 5, 9, 9, 5, 9, 4], np.float32)
    fields = {"shape_roi_size": len(path), "multi_coordinates": path}
    rois.append(ImagejRoi(roitype=ROI_TYPE.RECT, right=9, bottom=9, **fields))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for i, roi in enumerate(rois):
            archive.writestr(f"{i}.roi", roi.tobytes())
    return file.getvalue(), rois


def cellpose():
    saved = {
        "masks": LABELS,
        "outlines": LABELS,
        "flows": [LABELS, None],
        "est_diam": np.float64(3),
    }
    return in_memory(lambda file: np.save(file, np.array(saved, object), allow_pickle=True))


def qupath():
    features = [
        {
            "type": "Feature",
            "geometry": {"type": "Polygon", "coordinates": [ring], "plane": {"z": 0, "t": 0}},
            "properties": {"objectType": kind, "name": "a"},
        }
        for ring, kind in ((RING, "cell"), (TRIANGLE, "annotation"))
    ]
    return json.dumps({"type": "FeatureCollection", "features": features}).encode()


def coco():
    segmentations = [
        [np.ravel(RING).tolist()],
        {"size": list(SHAPE), "counts": [100, 20, 593]},
        {"size": list(SHAPE), "counts": "T3d0ab0"},
    ]
    return json.dumps(
        {
            "images": [{"id": 1, "file_name": "a.png", "height": SHAPE[0], "width": SHAPE[1]}],
            "annotations": [
                {"image_id": 1, "iscrowd": 0, "segmentation": each} for each in segmentations
            ],
        }
    ).encode()


FILES = {
    "png": in_memory(lambda file: Pillow.fromarray(LABELS).save(file, format="PNG")),
    "tiff": in_memory(lambda file: tifffile.imwrite(file, LABELS, compression="zlib")),
    "npy": in_memory(lambda file: np.save(file, LABELS)),
    "zip": roi_zip()[0],
    **{f"roi_{roi.roitype.name.lower()}": roi.tobytes() for roi in roi_zip()[1]},
    "cellpose": cellpose(),
    "geojson": qupath(),
    "coco": coco(),
}


def damaged(data, rng):
    """``data`` cut off somewhere, or with one to three bytes changed."""
    if rng.random() < 0.3:
        return data[: rng.integers(0, len(data))]
    changed = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        at = rng.integers(len(changed))
        changed[at] ^= rng.choice([1 << rng.integers(8), rng.integers(1, 256)])
    return bytes(changed)


@pytest.mark.parametrize("kind", FILES)
def test_whole_files_are_read(tmp_path, kind):
    (tmp_path / "file").write_bytes(FILES[kind])
    assert read_annotation(tmp_path / "file", SHAPE).max() >= 1


@pytest.mark.parametrize("kind", FILES)
def test_damaged_files_give_labels_of_the_right_size_or_one_line(tmp_path, kind):
    rng = np.random.default_rng(13)
    lines, found = [], []
    # tifffile makes room for a height of millions of rows that a changed bit names; that is slow.
    count = 50 if kind == "tiff" else 200
    for _ in range(count):
        (tmp_path / "file").write_bytes(damaged(FILES[kind], rng))
        try:
            found.append(read_annotation(tmp_path / "file", SHAPE, say=lambda line: None))
        except InputError as error:
            lines.append(str(error))
    assert [line for line in lines if "\n" in line] == []
    assert {labels.shape for labels in found} <= {SHAPE}
    assert {labels.dtype for labels in found} <= {np.dtype(np.int32), np.dtype(np.uint32)}
    assert len(lines) >= count // 5
