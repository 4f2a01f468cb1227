"""OME-Zarr: planes of images, series and plates, equal to the arrays that OME's library wrote."""

from __future__ import annotations

import shutil
from itertools import product

import numpy as np
import pytest
import zarr
from zarr_images import (
    FORMATS,
    change_metadata,
    group_at,
    metadata_file,
    random_image,
    write_plate,
    write_zarr,
)

from cellseg1_rt.errors import InputError, MissingExtraError
from cellseg1_rt.formats import read_image
from cellseg1_rt.formats.ngff_planes import files_of_zarr_plane
from cellseg1_rt.formats.planes import PlaneAddress
from cellseg1_rt.formats.stacks import list_planes, open_plane

HEIGHT, WIDTH = 61, 83
VERSIONS = list(FORMATS)

# id, axes, lengths before y and x, chunks, shards
IMAGES = [
    ("yx", "yx", (), (16, 32), None),
    ("cyx", "cyx", (3,), (1, 16, 32), None),
    ("cyx_one_chunk", "cyx", (3,), (3, 16, 32), None),
    ("zyx", "zyx", (5,), (2, 16, 32), None),
    ("tczyx", "tczyx", (2, 3, 3), (1, 1, 2, 32, 32), None),
    ("czyx_shards", "czyx", (2, 5), (1, 1, 16, 32), (1, 2, 64, 96)),
]
CASES = [
    pytest.param(version, *case[1:], id=f"{case[0]}-{version}")
    for case, version in product(IMAGES, VERSIONS)
    if case[4] is None or version == "0.5"
]


@pytest.mark.parametrize(("version", "axes", "before", "chunks", "shards"), CASES)
def test_every_window_of_every_plane(tmp_path, version, axes, before, chunks, shards):
    array = random_image(*before, HEIGHT, WIDTH)
    path = write_zarr(
        tmp_path / "a.ome.zarr",
        array,
        axes,
        version,
        chunks=chunks,
        shards=shards,
        pixel_size_um=(0.5, 0.25),
    )
    stacked = [axis for axis in axes if axis in "tz"]
    lengths = dict(zip(axes, array.shape, strict=True))
    expected = list(product(*(range(lengths[axis]) for axis in stacked)))
    rng = np.random.default_rng(3)

    planes = list_planes(path).planes

    assert [plane.name for plane in planes] == [
        "_".join(f"{axis}{index:03d}" for axis, index in zip(stacked, at, strict=True))
        for at in expected
    ]
    for address, at in zip(planes, expected, strict=True):
        picked = array
        for axis, index in sorted(zip(stacked, at, strict=True), key=lambda pair: pair[0] == "t"):
            picked = np.take(picked, index, axes.index(axis))
        plane = np.moveaxis(picked, 0, 2) if "c" in axes else picked[..., None]
        with open_plane(path, address) as source:
            assert source.shape == plane.shape
            assert source.chunk_px == chunks[-2:]
            assert source.pixel_size_um == (0.5, 0.25)
            whole = source.read(slice(None), slice(None))
            np.testing.assert_array_equal(whole, plane, strict=True)
            for _ in range(3):
                top, left = rng.integers(0, (HEIGHT, WIDTH))
                rows = slice(top, top + rng.integers(1, 40))
                columns = slice(left, left + rng.integers(1, 40))
                found = source.read(rows, columns)
                np.testing.assert_array_equal(found, plane[rows, columns], strict=True)


def test_big_endian_comes_in_native_order(tmp_path):
    array = random_image(HEIGHT, WIDTH)
    path = write_zarr(tmp_path / "a.zarr", array, "yx")
    shutil.rmtree(path / "s0", ignore_errors=True)
    name = read_metadata_name(path)
    zarr.create_array(
        str(path / name), data=array.astype(">u2"), chunks=(16, 32), zarr_format=2, overwrite=True
    )
    np.testing.assert_array_equal(read_image(path).pixels, array, strict=True)


def read_metadata_name(path) -> str:
    """The path of the full resolution."""
    names: list[str] = []
    change_metadata(path, lambda told: names.append(told["multiscales"][0]["datasets"][0]["path"]))
    return names[0]


@pytest.mark.parametrize("version", VERSIONS)
def test_channels_by_number_and_name(tmp_path, version):
    array = random_image(5, HEIGHT, WIDTH)
    names = ["DAPI", "GFP", "RFP", "Cy5", "TL"]
    path = write_zarr(tmp_path / "a.zarr", array, "cyx", version, channels=names)
    found = read_image(path, channels=["TL", 0]).pixels
    np.testing.assert_array_equal(found, np.moveaxis(array[[4, 0]], 0, 2))
    np.testing.assert_array_equal(read_image(path, channels=["GFP"]).pixels, array[1])
    with pytest.raises(InputError, match=r"5 channels on axis c \(DAPI, .*Fix: .*--channels 0,2"):
        read_image(path)


@pytest.mark.parametrize("version", VERSIONS)
def test_wells_and_fields_of_a_plate(tmp_path, version):
    fields = {
        field: random_image(3, 31, 37, seed=seed)
        for seed, field in enumerate(("A/1/0", "A/1/1", "B/12/0"))
    }
    path = write_plate(tmp_path / "plate.zarr", fields, "zyx", version)
    planes = list_planes(path).planes
    assert [plane.name for plane in planes] == [
        f"{name}_z{z:03d}" for name in ("A1_0", "A1_1", "B12_0") for z in range(3)
    ]
    assert str(planes[-1]) == "image B/12/0, z 2"
    for plane in planes:
        expected = fields[plane.scene][plane.at[0][1]]
        np.testing.assert_array_equal(read_image(path, plane=plane).pixels, expected)
    assert [plane.name for plane in list_planes(path / "A" / "1").planes] == [
        f"{field}_z{z:03d}" for field in (0, 1) for z in range(3)
    ]
    with pytest.raises(InputError, match="got 9 planes: A1_0_z000 to B12_0_z002"):
        read_image(path)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_bad_well_or_field_costs_itself(tmp_path, version):
    fields = {f"A/{n}/0": random_image(3, 31, 37, seed=n) for n in (1, 2, 3)}
    path = write_plate(tmp_path / "plate.zarr", fields, "zyx", version)
    shutil.rmtree(path / "A" / "1")
    metadata_file(path / "A" / "2" / "0").write_text("{")
    planes = list_planes(path).planes
    assert [plane.name for plane in planes] == ["A1", "A2_0", "A3_0_z000", "A3_0_z001", "A3_0_z002"]
    for plane, place in zip(planes[:2], ("A/1", "A/2/0"), strict=True):
        with pytest.raises(InputError, match=rf"plate\.zarr/{place}: this Zarr folder cannot be"):
            read_image(path, plane=plane)
    np.testing.assert_array_equal(read_image(path, plane=planes[3]).pixels, fields["A/3/0"][1])


@pytest.mark.parametrize("listed", [True, False], ids=["listed", "numbered"])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_series_as_bio_formats_writes_it(tmp_path, version, listed):
    path = tmp_path / "series.zarr"
    group = group_at(path, version)
    layout = {"bioformats2raw.layout": 3}
    group.attrs.update({"ome": {"version": "0.5", **layout}} if version == "0.5" else layout)
    keys = ["s1", "s0"] if listed else ["0", "1"]
    if listed:
        told = {"series": keys}
        ome = group.create_group("OME")
        ome.attrs.update({"ome": {"version": "0.5", **told}} if version == "0.5" else told)
    arrays = {key: random_image(HEIGHT, WIDTH, seed=n) for n, key in enumerate(keys)}
    for key, array in arrays.items():
        write_zarr(path / key, array, "yx", version)
    planes = list_planes(path).planes
    assert [(plane.scene, plane.name) for plane in planes] == [(keys[0], "s000"), (keys[1], "s001")]
    np.testing.assert_array_equal(read_image(path, plane=planes[1]).pixels, arrays[keys[1]])


def no_unit(told):
    for axis in told["multiscales"][0]["axes"]:
        axis.pop("unit")


def nanometres(told):
    for axis in told["multiscales"][0]["axes"]:
        axis["unit"] = "nanometer"


def image_scale(told):
    told["multiscales"][0]["coordinateTransformations"] = [{"type": "scale", "scale": [3.0, 7.0]}]


def shifted(told):
    shift = {"type": "translation", "translation": [5.0, 5.0]}
    told["multiscales"][0]["datasets"][0]["coordinateTransformations"].append(shift)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda told: None, (0.5, 0.25)),
        (no_unit, None),
        (nanometres, (0.0005, 0.00025)),
        (image_scale, (1.5, 1.75)),
        (shifted, (0.5, 0.25)),
    ],
    ids=["as_written", "no_unit", "nanometres", "image_scale", "shifted"],
)
def test_pixel_size(tmp_path, change, expected):
    path = write_zarr(
        tmp_path / "a.zarr", random_image(HEIGHT, WIDTH), "yx", pixel_size_um=(0.5, 0.25)
    )
    change_metadata(path, change)
    found = read_image(path).pixel_size_um
    assert found == (None if expected is None else pytest.approx(expected))


def other_version(told):
    told["multiscales"][0]["version"] = "0.3"


def two_images(told):
    told["multiscales"] *= 2


def axis_missing(told):
    told["multiscales"][0]["axes"].pop()


def no_image(told):
    told.pop("multiscales")


BAD = {
    "other_version": (other_version, "OME-Zarr of another version; got 0.3; expected 0.4 or 0.5"),
    "two_images": (two_images, "not an OME-Zarr image; got 2 multiscales"),
    "axis_missing": (axis_missing, r"axes that are not those of planes; got axes Y, shape \(61"),
    "no_image": (no_image, "not an OME-Zarr image; got 0 multiscales"),
    "no_axes": (
        lambda told: told["multiscales"][0].pop("axes"),
        "this Zarr folder cannot be read; got KeyError: 'axes'",
    ),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD)
def test_folders_that_are_no_image(tmp_path, change, message):
    path = write_zarr(tmp_path / "a.zarr", random_image(HEIGHT, WIDTH), "yx")
    change_metadata(path, change)
    with pytest.raises(InputError, match=message):
        list_planes(path)
    with pytest.raises(InputError, match=message):
        read_image(path)


def test_an_empty_folder_with_the_suffix(tmp_path):
    (tmp_path / "a.zarr").mkdir()
    with pytest.raises(InputError, match=r"a\.zarr: this Zarr folder cannot be read"):
        list_planes(tmp_path / "a.zarr")


def test_a_damaged_chunk_costs_the_windows_that_touch_it(tmp_path):
    array = random_image(HEIGHT, WIDTH)
    path = write_zarr(tmp_path / "a.zarr", array, "yx", chunks=(16, 32))
    chunk = path / read_metadata_name(path) / "1" / "2"
    chunk.write_bytes(chunk.read_bytes()[:9])
    with open_plane(path) as source:
        np.testing.assert_array_equal(
            source.read(slice(0, 61), slice(0, 64))[..., 0], array[:, :64]
        )
        with pytest.raises(InputError, match="a chunk of this Zarr image cannot be decoded"):
            source.read(slice(0, 61), slice(0, 65))


def test_a_plane_that_is_not_there(tmp_path):
    path = write_zarr(tmp_path / "a.zarr", random_image(3, HEIGHT, WIDTH), "zyx")
    for at in ((), (("Z", 3),), (("T", 0),)):
        with pytest.raises(InputError, match=r"no such plane; .*expected an index of .* axes Z"):
            read_image(path, plane=PlaneAddress("", at))


@pytest.mark.parametrize(
    ("version", "chunks", "shards"),
    [
        ("0.4", (2, 32, 64), None),
        ("0.5", (2, 32, 64), None),
        ("0.5", (1, 16, 32), (2, 32, 64)),
    ],
    ids=str,
)
def test_the_files_of_a_plane_are_those_that_its_pixels_come_from(
    tmp_path, version, chunks, shards
):
    # Every file is removed once: the plane changes, or cannot be read, if and only if it is listed.
    array = np.full((5, HEIGHT, WIDTH), 7, np.uint16)
    path = write_zarr(tmp_path / "a.zarr", array, "zyx", version, chunks=chunks, shards=shards)
    plane = list_planes(path).planes[3]
    listed = files_of_zarr_plane(path, plane)
    assert listed == sorted(set(listed))
    for file in [each for each in path.rglob("*") if each.is_file()]:
        data = file.read_bytes()
        file.unlink()
        try:
            same = bool((read_image(path, plane=plane).pixels == 7).all())
        except InputError:
            same = False
        file.write_bytes(data)
        if same:
            assert file not in listed or file.name in {".zattrs", ".zgroup"}, file
        else:
            assert file in listed, file


def test_without_zarr(tmp_path, monkeypatch):
    path = write_zarr(tmp_path / "a.zarr", random_image(HEIGHT, WIDTH), "yx")
    monkeypatch.setattr("cellseg1_rt.extras.is_installed", lambda package: False)
    with pytest.raises(MissingExtraError, match=r"reading OME-Zarr .*cellseg1-rt\[zarr\]"):
        list_planes(path)
