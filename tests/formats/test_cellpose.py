from __future__ import annotations

import os
import pickle
import re

import numpy as np
import pytest

from cellseg1_rt.errors import InputError
from cellseg1_rt.formats import read_annotation


@pytest.fixture
def masks(label_map):
    return np.where(label_map == 300, 4, label_map).astype(np.uint16)


def saved_by_cellpose(labels, **others):
    """What the program puts into the file, with values of every kind it uses."""
    flows = [
        np.zeros((1, *labels.shape[-2:], 3), np.uint8),
        np.ones((1, 5, 7), np.float32),
        [],
        None,
    ]
    return {
        "outlines": labels,
        "colors": np.full((4, 3), 200, np.uint8),
        "masks": labels,
        "chan_choose": [0, 0],
        "filename": "/data/cells.tif",
        "flows": [*flows, [np.zeros((2, 5, 7), np.float32)]],
        "est_diam": np.float64(31.5),
        "diameter": np.float32(30),
        "ismanual": np.array([True, False, True, False]),
        "manual_changes": [["22/03/2024", "added mask", [1, 2]]],
        "normalize_params": {"lowhigh": None, "percentile": (1.0, 99.0), "norm3D": True},
        "model_path": 0,
    } | others


def write(path, content, protocol=None):
    """As np.save does it; with another protocol, as older numpy did."""
    if isinstance(content, np.ndarray):
        array = content
    else:
        array = np.empty((), object)
        array[()] = content
    if protocol is not None:
        return write_stream(path, pickle.dumps(array, protocol))
    np.save(path, array, allow_pickle=True)
    return path


def write_stream(path, stream):
    """An NPY file that says it holds an object, and then ``stream``."""
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "|O", "fortran_order": False, "shape": ()}
        )
        file.write(stream)
    return path


STORED = [
    ("uint16", np.uint16),
    ("uint32", np.uint32),
    ("int64", np.int64),
    ("int32_big_endian", ">i4"),
    ("uint8", np.uint8),
]


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [d for _, d in STORED], ids=[i for i, _ in STORED])
def test_masks_of_a_file_that_cellpose_made(tmp_path, masks, dtype, order):
    path = write(tmp_path / "cells_seg.npy", saved_by_cellpose(masks.astype(dtype, order=order)))
    found = read_annotation(path, masks.shape)
    np.testing.assert_array_equal(found, masks.astype(np.int32), strict=True)


@pytest.mark.parametrize("core", [b"core", b"_core"], ids=["numpy_1", "numpy_2"])
@pytest.mark.parametrize("protocol", [2, 3])
def test_files_of_older_and_newer_numpy(tmp_path, masks, protocol, core):
    # These protocols name modules on lines of their own, so one can be put in place of another.
    path = write(tmp_path / "cells_seg.npy", saved_by_cellpose(masks), protocol)
    data = path.read_bytes()
    changed = re.sub(rb"cnumpy\._?core\.", b"cnumpy." + core + b".", data)
    assert changed.count(b"cnumpy." + core + b".") >= 1
    path.write_bytes(changed)
    np.testing.assert_array_equal(read_annotation(path), masks)


def test_protocol_4_of_numpy_1(tmp_path, masks):
    # There a name is preceded by its length, and the whole by that of its frame.
    path = write(tmp_path / "cells_seg.npy", saved_by_cellpose(masks))
    data = path.read_bytes()
    new, old = b"\x8c\x16numpy._core.multiarray", b"\x8c\x15numpy.core.multiarray"
    start = data.index(b"\x80\x04\x95")
    frame = int.from_bytes(data[start + 3 : start + 11], "little")
    if new in data:
        data = data[: start + 3] + (frame - 1).to_bytes(8, "little") + data[start + 11 :]
        data = data.replace(new, old, 1)
    assert old in data
    path.write_bytes(data)
    np.testing.assert_array_equal(read_annotation(path), masks)


def test_one_plane_with_an_axis_of_its_own(tmp_path, masks):
    path = write(tmp_path / "cells_seg.npy", saved_by_cellpose(masks[np.newaxis]))
    np.testing.assert_array_equal(read_annotation(path), masks)


def test_one_label_in_pieces_stays_one_cell(tmp_path, masks):
    pieces = (masks > 0).astype(np.uint16)
    path = write(tmp_path / "cells_seg.npy", saved_by_cellpose(pieces))
    np.testing.assert_array_equal(read_annotation(path), pieces)


class Runs:
    """Pickles as a call of ``function(*arguments)``."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


MALICIOUS = [
    ("in_place_of_the_file", lambda masks, run: run),
    ("in_place_of_masks", lambda masks, run: saved_by_cellpose(masks, masks=run)),
    ("beside_masks", lambda masks, run: saved_by_cellpose(masks, est_diam=run)),
    ("deep_inside", lambda masks, run: saved_by_cellpose(masks, flows=[[{"a": (run,)}]])),
]


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("content", [c for _, c in MALICIOUS], ids=[i for i, _ in MALICIOUS])
def test_nothing_in_a_file_is_run(tmp_path, masks, content, protocol):
    witness = tmp_path / "witness"
    made = content(masks, Runs(os.mkdir, str(witness)))
    path = write(tmp_path / "cells_seg.npy", made, protocol)

    with pytest.raises(
        InputError, match=rf"none of it was run; got {os.name}\.mkdir; exp"
    ) as error:
        read_annotation(path)

    assert not witness.exists()
    assert "\n" not in str(error.value)
    # The file is a real one: unpickled as usual, it does what it says.
    np.load(path, allow_pickle=True)
    assert witness.exists()


REFUSED = [
    ("builtins", b"cbuiltins\neval\n(S'1'\ntR.", "builtins.eval"),
    ("inside_numpy", b"cnumpy\nload\n(S'x'\ntR.", "numpy.load"),
    ("near_an_allowed_name", b"cnumpy.core.multiarray\nfromfile\n.", "numpy.core.multiarray.fromf"),
    ("dotted", b"\x80\x04\x8c\x05numpy\x8c\x0cndarray.dump\x93.", "numpy.ndarray.dump"),
    ("instance", b"(S'x'\nios\nsystem\n.", "os.system"),
]


@pytest.mark.parametrize(
    ("stream", "name"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED]
)
def test_names_that_are_not_arrays_are_refused(tmp_path, stream, name):
    with pytest.raises(InputError, match=f"asks for more than arrays; .* got {name}"):
        read_annotation(write_stream(tmp_path / "cells_seg.npy", stream))


DAMAGED = [
    ("no_array", pickle.dumps({"masks": 3}), "got ValueError: something else than an array"),
    ("state_of_a_class", b"cnumpy\nndarray\n)b.", "cut off or damaged; got TypeError"),
    ("attribute_of_a_class", b"cnumpy\nndarray\nN}S'x'\nI1\ns\x86b.", "off or damaged; got Type"),
    ("persistent", b"Pname\n.", "cut off or damaged; got UnpicklingError"),
    ("registry", b"\x82\x01.", "cut off or damaged; got ValueError: unregistered"),
]


@pytest.mark.parametrize(
    ("stream", "message"), [case[1:] for case in DAMAGED], ids=[case[0] for case in DAMAGED]
)
def test_streams_that_are_no_array(tmp_path, stream, message):
    with pytest.raises(InputError, match=message):
        read_annotation(write_stream(tmp_path / "cells_seg.npy", stream))


OTHER = [
    ("list", [1, 2], "not what Cellpose saves; got no dictionary; expected a dictionary with mas"),
    ("no_masks", {"flows": [], "est_diam": 3}, "not what Cellpose saves; got the keys flows, est_"),
    ("masks_none", {"masks": None}, "not what Cellpose saves; got the keys masks"),
    ("floats", {"masks": np.ones((5, 7), np.float32)}, r"of whole numbers; got f4 \(5, 7\)"),
    ("stack", {"masks": np.ones((3, 5, 7), np.int32)}, r"not one plane .* got i4 \(3, 5, 7\)"),
    ("objects", {"masks": np.full((5, 7), None)}, r"not one plane of whole numbers; got O8"),
    ("no_pixels", {"masks": np.ones((0, 7), np.int32)}, "damaged; got ValueError: 0 bytes for"),
    ("negative", {"masks": np.full((5, 7), -2)}, "a label out of range; got -2"),
    ("no_cells", {"masks": np.zeros((5, 7), np.int32)}, "no cells; got 0 everywhere"),
]


@pytest.mark.parametrize(
    ("content", "message"), [case[1:] for case in OTHER], ids=[case[0] for case in OTHER]
)
def test_objects_without_masks_to_use(tmp_path, content, message):
    with pytest.raises(InputError, match=message):
        read_annotation(write(tmp_path / "cells_seg.npy", content))


def test_an_array_of_many_objects_is_not_cellposes(tmp_path, masks):
    path = write(tmp_path / "cells_seg.npy", np.array([saved_by_cellpose(masks)] * 2, object))
    with pytest.raises(InputError, match="not what Cellpose saves; got no dictionary"):
        read_annotation(path)
