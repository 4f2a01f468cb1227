from __future__ import annotations

import io
import struct
import zipfile

import numpy as np
import pytest
from plain_filling import plain_oval, plain_polygon
from roifile import ROI_OPTIONS, ROI_SUBTYPE, ROI_TYPE, ImagejRoi, roiwrite

from cellseg1_rt.errors import InputError
from cellseg1_rt.formats import read_annotation

SHAPE = (41, 53)
OUTLINE = np.array([(7, 3), (31, 5), (25, 17), (29, 33), (11, 29), (14, 15)])


def outline(points=OUTLINE, kind=ROI_TYPE.POLYGON, name="cell", **fields):
    roi = ImagejRoi.frompoints(np.asarray(points), name=name)
    roi.roitype = kind
    return with_fields(roi, fields)


def box(kind, left, top, width, height, name="cell", **fields):
    roi = ImagejRoi(
        roitype=kind, left=left, top=top, right=left + width, bottom=top + height, name=name
    )
    return with_fields(roi, fields)


def with_fields(roi, fields):
    for field, value in fields.items():
        setattr(roi, field, value)
    return roi


def subpixel_box(kind, left, top, width, height):
    fields = {"xd": left, "yd": top, "widthd": width, "heightd": height}
    options = ROI_OPTIONS.SUB_PIXEL_RESOLUTION
    return box(kind, int(left), int(top), int(width), int(height), options=options, **fields)


def composite(*commands):
    path = np.array([number for command in commands for number in command], np.float32)
    return ImagejRoi(
        roitype=ROI_TYPE.RECT,
        right=SHAPE[1],
        bottom=SHAPE[0],
        shape_roi_size=len(path),
        multi_coordinates=path,
        name="cell",
    )


def mask_of(tmp_path, roi, said=None):
    (tmp_path / "cell.roi").write_bytes(roi.tobytes())
    said = [] if said is None else said
    return read_annotation(tmp_path / "cell.roi", SHAPE, say=said.append) == 1


@pytest.mark.parametrize("kind", [ROI_TYPE.POLYGON, ROI_TYPE.FREEHAND, ROI_TYPE.TRACED], ids=str)
@pytest.mark.parametrize("shift", [0, 0.25, 0.5], ids=["whole", "quarter", "half"])
def test_outlines(tmp_path, kind, shift):
    points = OUTLINE + shift if shift else OUTLINE
    found = mask_of(tmp_path, outline(points, kind))
    np.testing.assert_array_equal(found, plain_polygon([points], SHAPE))


def test_a_file_packed_by_hand(tmp_path):
    # Big-endian: Iout, version, type, top, left, bottom, right, points; x then y inside the box.
    header = b"Iout" + struct.pack(">hBxhhhhH", 227, 0, 5, 3, 15, 11, 4)
    points = struct.pack(">4h4h", 0, 8, 8, 0, 0, 0, 10, 10)
    (tmp_path / "cell.roi").write_bytes(header.ljust(64, b"\0") + points)
    expected = np.zeros(SHAPE, np.int32)
    expected[5:15, 3:11] = 1
    found = read_annotation(tmp_path / "cell.roi", SHAPE)
    np.testing.assert_array_equal(found, expected, strict=True)


def test_outlines_that_stick_out_are_cut_off(tmp_path):
    points = np.array([(-12.5, -7.0), (70.25, 3.0), (20.0, 60.5)], np.float32)
    found = mask_of(tmp_path, outline(points))
    np.testing.assert_array_equal(found, plain_polygon([points], SHAPE))


def test_rectangles(tmp_path):
    expected = np.zeros(SHAPE, bool)
    expected[7:18, 5:34] = True
    np.testing.assert_array_equal(mask_of(tmp_path, box(ROI_TYPE.RECT, 5, 7, 29, 11)), expected)


def test_a_rectangle_between_pixels(tmp_path):
    # Centres from 5.5 to 33.5 and from 8.5 to 17.5 lie inside.
    expected = np.zeros(SHAPE, bool)
    expected[8:18, 5:34] = True
    roi = subpixel_box(ROI_TYPE.RECT, 5.25, 7.75, 28.5, 10.125)
    np.testing.assert_array_equal(mask_of(tmp_path, roi), expected)


def test_a_rounded_rectangle(tmp_path):
    found = mask_of(tmp_path, box(ROI_TYPE.RECT, 5, 7, 29, 17, rounded_rect_arc_size=10))
    expected = np.zeros(SHAPE, bool)
    expected[7:24, 10:29] = expected[12:19, 5:34] = True
    for left, top in [(5, 7), (24, 7), (5, 14), (24, 14)]:
        expected |= plain_oval(left, top, 10, 10, SHAPE)
    np.testing.assert_array_equal(found, expected)


# Circles of odd and even sizes have centres exactly on them: 5 (3-4-5), 10, 25, 26 and so on.
OVALS = [(w, h) for w in (1, 2, 3, 5, 10, 13, 25, 26) for h in (1, 2, 5, 10, 17, 25, 26)]


@pytest.mark.parametrize("size", OVALS, ids=str)
def test_ovals(tmp_path, size):
    found = mask_of(tmp_path, box(ROI_TYPE.OVAL, 4, 3, *size))
    np.testing.assert_array_equal(found, plain_oval(4, 3, *size, SHAPE))


BETWEEN = [
    ("quarters", (4.5, 3.25, 25, 20.5)),
    ("thin", (4.5, 3.25, 1.5, 40)),
    ("over_the_corner", (40.5, -6.125, 19.75, 26.5)),
    ("over_the_side", (-8.75, 20.5, 25, 20.5)),
    ("centres_at_all_four_ends", (4.5, 3.5, 10, 8)),
    # Here a root is rounded to just before a centre on the ellipse.
    ("rounded_on_the_left", (9.5, -10, 45, 45)),
    ("rounded_on_the_right", (-18.5, 2.5, 60, 60)),
    ("rounded_on_both_sides", (6.5, -12, 65, 65)),
]


@pytest.mark.parametrize("oval", [o for _, o in BETWEEN], ids=[i for i, _ in BETWEEN])
def test_ovals_between_pixels_and_over_the_edge(tmp_path, oval):
    found = mask_of(tmp_path, subpixel_box(ROI_TYPE.OVAL, *oval))
    np.testing.assert_array_equal(found, plain_oval(*oval, SHAPE))


def test_ellipses_are_stored_as_points(tmp_path):
    angles = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    points = np.stack([25 + 15 * np.cos(angles), 20 + 8 * np.sin(angles)], 1).astype(np.float32)
    roi = outline(points, ROI_TYPE.FREEHAND, subtype=ROI_SUBTYPE.ELLIPSE, x1=10, y1=20, x2=40)
    np.testing.assert_array_equal(mask_of(tmp_path, roi), plain_polygon([points], SHAPE))


def test_composites_keep_holes_and_parts(tmp_path):
    rings = [
        [(5, 5), (25, 5), (25, 30), (5, 30)],
        [(10, 10), (10, 22), (18, 22), (18, 10)],
        [(30.5, 3), (50, 9), (33, 20.25)],
    ]
    commands = []
    for first, *others in rings:
        commands += [(0, *first), *((1, *point) for point in others), (4,)]
    found = mask_of(tmp_path, composite(*commands))
    np.testing.assert_array_equal(found, plain_polygon(rings, SHAPE))
    assert not found[15, 14]


def test_composites_with_curves(tmp_path):
    # A circle of radius 12 as four cubic curves, and a parabola's segment as a quadratic one.
    k, r, x, y = 0.5522847498 * 12, 12, 20, 20
    cubic = [
        (0, x + r, y),
        (3, x + r, y + k, x + k, y + r, x, y + r),
        (3, x - k, y + r, x - r, y + k, x - r, y),
        (3, x - r, y - k, x - k, y - r, x, y - r),
        (3, x + k, y - r, x + r, y - k, x + r, y),
        (4,),
    ]
    found = mask_of(tmp_path, composite(*cubic, (0, 35, 30), (2, 43, 10, 51, 30), (4,)))
    rows, columns = np.indices(SHAPE) + 0.5
    segment = (rows < 30) & (rows > 20 + 10 * ((columns - 43) / 8) ** 2)
    np.testing.assert_array_equal(found, plain_oval(8, 8, 24, 24, SHAPE) | segment)


@pytest.mark.parametrize(
    "commands",
    [[(9, 1, 2)], [(1, 5, 5), (4,)], [(0, 5, 5), (1, 5)]],
    ids=["unknown", "no_move", "cut_off"],
)
def test_damaged_composites(tmp_path, commands):
    with pytest.raises(InputError, match=r"this ImageJ ROI file is cut off or damaged; got Value"):
        mask_of(tmp_path, composite(*commands))


def write_zip(path, *rois):
    roiwrite(path, rois, mode="w")
    return path


def test_a_zip_in_its_order(tmp_path):
    path = write_zip(
        tmp_path / "RoiSet.zip",
        box(ROI_TYPE.RECT, 2, 2, 9, 9, "one"),
        box(ROI_TYPE.OVAL, 6, 6, 11, 7, "two"),
        outline(name="three"),
    )
    expected = np.zeros(SHAPE, np.int32)
    expected[2:11, 2:11] = 1
    expected[plain_oval(6, 6, 11, 7, SHAPE)] = 2
    expected[plain_polygon([OUTLINE], SHAPE)] = 3
    np.testing.assert_array_equal(read_annotation(path, SHAPE), expected, strict=True)


def test_what_macos_adds_to_a_zip_is_passed_over(tmp_path):
    path = write_zip(tmp_path / "RoiSet.zip", box(ROI_TYPE.RECT, 2, 2, 9, 9))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("__MACOSX/._cell.roi", b"\0\5\x16\7")
        archive.writestr("notes.txt", b"mine")
    assert read_annotation(path, SHAPE).max() == 1


def test_what_has_no_area_is_named(tmp_path):
    said: list[str] = []
    text = box(ROI_TYPE.RECT, 1, 1, 5, 5, "scale", subtype=ROI_SUBTYPE.TEXT, text="µm")
    path = write_zip(
        tmp_path / "RoiSet.zip",
        outline(kind=ROI_TYPE.POINT, name="seed"),
        box(ROI_TYPE.RECT, 2, 2, 9, 9),
        outline(kind=ROI_TYPE.POLYLINE, name="axis"),
        text,
        box(ROI_TYPE.OVAL, 20, 20, 0, 9, "flat"),
    )
    assert read_annotation(path, SHAPE, say=said.append).max() == 1
    assert said == [
        "RoiSet.zip: left out, no areas: seed (point), axis (polyline), scale (rect)",
        "RoiSet.zip: left out, outside the image or around no pixel's centre: flat",
    ]


def test_a_fitted_spline_is_said(tmp_path):
    said: list[str] = []
    mask_of(tmp_path, outline(name="soft", options=ROI_OPTIONS.SPLINE_FIT), said)
    assert said == ["cell.roi: straight lines instead of the fitted spline: soft"]


def test_only_points_is_an_error(tmp_path):
    with pytest.raises(InputError, match=r"no cells; got cell \(point\); expected regions with an"):
        mask_of(tmp_path, outline(kind=ROI_TYPE.POINT))


STACKS = [
    ("position", {"position": 3}, {"position": 5}, "slices.*got a on slice 3, b on slice 5"),
    ("z", {"z_position": 2}, {"z_position": 1}, "slices.*got b on slice 1, a on slice 2"),
    ("t", {"t_position": 4}, {"t_position": 9}, "frames.*got a on frame 4, b on frame 9"),
]


@pytest.mark.parametrize(
    ("one", "other", "message"), [case[1:] for case in STACKS], ids=[case[0] for case in STACKS]
)
def test_regions_on_several_planes_are_refused(tmp_path, one, other, message):
    rois = [
        box(ROI_TYPE.RECT, 2, 2, 9, 9, "a", **one),
        box(ROI_TYPE.RECT, 20, 2, 9, 9, "b", **other),
        box(ROI_TYPE.RECT, 2, 20, 9, 9, "everywhere"),
    ]
    path = write_zip(tmp_path / "RoiSet.zip", *rois)
    with pytest.raises(InputError, match=message):
        read_annotation(path, SHAPE)


def test_regions_of_one_plane_and_of_several_channels_are_read(tmp_path):
    rois = [
        box(ROI_TYPE.RECT, 2, 2, 9, 9, "a", c_position=1, z_position=3),
        box(ROI_TYPE.RECT, 20, 2, 9, 9, "b", c_position=2, z_position=3),
        box(ROI_TYPE.RECT, 2, 20, 9, 9, "c"),
    ]
    assert read_annotation(write_zip(tmp_path / "RoiSet.zip", *rois), SHAPE).max() == 3


def zip_of(**files):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name.replace("_", "."), content)
    return data.getvalue()


BAD_FILES = [
    ("empty_zip", zip_of(), "a zip file without ImageJ regions; got an empty zip file"),
    (
        "other_zip",
        zip_of(a_txt=b"x"),
        r"without ImageJ regions; got a.txt; expected files that end",
    ),
    ("short_roi", b"Iout" + bytes(30), "ImageJ ROI file is cut off or damaged; got ValueError"),
    ("no_roi", zip_of(a_roi=b"nothing" * 20), "ImageJ ROI file is cut off or damaged"),
]


@pytest.mark.parametrize(
    ("data", "message"), [case[1:] for case in BAD_FILES], ids=[case[0] for case in BAD_FILES]
)
def test_files_that_cannot_be_read(tmp_path, data, message):
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(InputError, match=message):
        read_annotation(tmp_path / "file", SHAPE)


def test_a_zip_that_unpacks_to_too_much(tmp_path, monkeypatch):
    monkeypatch.setattr("cellseg1_rt.formats.imagej_rois._MOST_BYTES", 300)
    path = write_zip(tmp_path / "RoiSet.zip", outline(), outline(name="other"))
    with pytest.raises(
        InputError, match=r"unpack to too much; got \d+ bytes; expected at most 300"
    ):
        read_annotation(path, SHAPE)


def test_the_image_size_must_be_given(tmp_path):
    path = write_zip(tmp_path / "RoiSet.zip", outline())
    with pytest.raises(
        InputError, match=r"ROI files do not say how large the image is; expected s"
    ):
        read_annotation(path)
