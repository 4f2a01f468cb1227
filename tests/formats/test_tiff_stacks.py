"""Planes of TIFF stacks: order and names, and windows equal to the array that was written."""

from __future__ import annotations

import struct
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image as Pillow

from cellseg1_rt.errors import InputError
from cellseg1_rt.formats import read_image
from cellseg1_rt.formats.planes import PlaneAddress
from cellseg1_rt.formats.stacks import list_planes, open_plane

HEIGHT, WIDTH = 61, 83
DEFLATE = {"compression": "zlib"}
OME = {"ome": True}
IMAGEJ = {"imagej": True}
CONTIG = {"photometric": "minisblack", "planarconfig": "contig"}

# id, axes, lengths of those before Y, X and of what follows X, dtype, options of the writer
STACKS = [
    ("ome_tzc", "TZCYX", (2, 3, 2), (), "u2", OME),
    ("ome_czt", "CZTYX", (3, 2, 5), (), "u1", OME),
    ("ome_deflate_tiles", "ZCYX", (3, 2), (), "u2", {**OME, **DEFLATE, "tile": (16, 32)}),
    ("ome_raw_tiles", "ZCYX", (3, 2), (), "u2", {**OME, "tile": (16, 32)}),
    ("ome_rgb", "ZYXS", (5,), (3,), "u1", {**OME, "photometric": "rgb"}),
    ("ome_planar_rgb", "ZSYX", (5, 3), (), "u1", {**OME, "photometric": "rgb"}),
    ("ome_planar_deflate", "ZSYX", (5, 3), (), "u1", {**OME, **DEFLATE, "photometric": "rgb"}),
    ("volume", "ZYX", (5,), (), "u2", {"volumetric": True}),
    ("volume_tiles", "ZYX", (5,), (), "u2", {"volumetric": True, **DEFLATE, "tile": (2, 16, 32)}),
    ("imagej_tzc", "TZCYX", (2, 3, 2), (), "u2", IMAGEJ),
    ("imagej_t", "TYX", (7,), (), "f4", IMAGEJ),
    ("imagej_rgb", "ZYXS", (3,), (3,), "u1", IMAGEJ),
    ("shaped_z", "ZYX", (5,), (), "f8", {}),
    ("shaped_big_endian", "ZCYX", (3, 2), (), "u2", {"byteorder": ">"}),
    ("shaped_big_endian_deflate", "ZYX", (3,), (), "u2", {"byteorder": ">", **DEFLATE}),
    ("shaped_one_page", "ZYX", (5,), (), "u2", {"truncate": True}),
    ("predictor_strips", "ZYX", (3,), (), "u2", {**DEFLATE, "predictor": 2, "rowsperstrip": 7}),
    ("raw_strips", "ZYX", (3,), (), "u2", {"rowsperstrip": 7}),
    ("bits", "ZYX", (3,), (), "?", {}),
    ("samples_beside", "ZYXC", (3,), (2,), "u2", CONTIG),
    ("angles", "RYX", (3,), (), "i2", {}),
]


def written(path, axes, before, after, dtype, options) -> NDArray[Any]:
    """The array in the file."""
    rng = np.random.default_rng(11)
    shape = (*before, HEIGHT, WIDTH, *after)
    array = rng.integers(0, 2 if dtype == "?" else 120, shape).astype(dtype)
    options = {"photometric": "minisblack", **options}
    tifffile.imwrite(path, array, metadata={"axes": axes}, **options)
    return array


def plane_of(array, axes: str, at: dict[str, int]) -> NDArray[Any]:
    """[H, W, C] in plain numpy."""
    picked = array[tuple(at.get(axis, slice(None)) for axis in axes)]
    left = [axis for axis in axes if axis not in at]
    order = [left.index("Y"), left.index("X"), *(left.index(axis) for axis in left if axis in "SC")]
    picked = picked.transpose(order)
    return picked if picked.ndim == 3 else picked[..., None]


@pytest.mark.parametrize(
    ("axes", "before", "after", "dtype", "options"),
    [case[1:] for case in STACKS],
    ids=[case[0] for case in STACKS],
)
def test_every_window_of_every_plane(tmp_path, axes, before, after, dtype, options):
    path = tmp_path / "stack.tif"
    array = written(path, axes, before, after, dtype, options)
    lengths = dict(zip(axes, array.shape, strict=True))
    stacked = [axis for axis in axes if axis not in "YXSC"]
    expected = [
        dict(zip(stacked, at, strict=True))
        for at in product(*(range(lengths[axis]) for axis in stacked))
    ]
    rng = np.random.default_rng(3)

    listing = list_planes(path)

    assert [dict(plane.at) for plane in listing.planes] == expected
    assert [plane.name for plane in listing.planes] == [
        "_".join(f"{axis.lower()}{index:03d}" for axis, index in at.items()) for at in expected
    ]
    assert listing.note == ""
    for address, at in zip(listing.planes, expected, strict=True):
        plane = plane_of(array, axes, at)
        with open_plane(path, address) as source:
            assert source.shape == plane.shape
            assert source.dtype == np.dtype(dtype)
            whole = source.read(slice(None), slice(None))
            np.testing.assert_array_equal(whole, plane, strict=True)
            for _ in range(5):
                top, left = rng.integers(0, (HEIGHT, WIDTH))
                rows = slice(top, top + rng.integers(1, 40))
                columns = slice(left, left + rng.integers(1, 40))
                found = source.read(rows, columns)
                np.testing.assert_array_equal(found, plane[rows, columns], strict=True)
            assert source.read(slice(5, 5), slice(0, 3)).shape == (0, 3, plane.shape[2])


def test_channels_by_number_and_name(tmp_path):
    path = tmp_path / "stack.ome.tif"
    array = np.random.default_rng(5).integers(0, 99, (3, 5, HEIGHT, WIDTH)).astype("u2")
    names = ["DAPI", "GFP", "RFP", "Cy5", "7"]
    metadata = {"axes": "ZCYX", "Channel": {"Name": names}}
    tifffile.imwrite(path, array, metadata=metadata, ome=True)
    (_, address, _) = list_planes(path).planes
    for choice, numbers in (
        (["GFP"], [1]),
        ([3, 0], [3, 0]),
        (["RFP", 4, "DAPI"], [2, 4, 0]),
        (["7"], [4]),
        ([2, 2], [2, 2]),
    ):
        found = read_image(path, channels=choice, plane=address).pixels
        expected = np.moveaxis(array[1, numbers], 0, 2)
        np.testing.assert_array_equal(found.reshape(expected.shape), expected)
        assert found.ndim == (2 if len(numbers) == 1 else 3)
    with pytest.raises(
        InputError,
        match=r"too many channels; got 5 channels on axis C \(DAPI, GFP, RFP, Cy5, 7\); "
        r"expected at most 4\. Fix: choose channels, as in --channels 0,2",
    ):
        read_image(path, plane=address)
    with pytest.raises(InputError, match=r"got channels YFP; expected .* 0 to 4 \(DAPI, GFP, RFP"):
        read_image(path, channels=["YFP"], plane=address)


def test_a_name_of_two_channels_picks_neither(tmp_path):
    path = tmp_path / "stack.ome.tif"
    array = np.zeros((2, HEIGHT, WIDTH), "u2")
    metadata = {"axes": "CYX", "Channel": {"Name": ["DAPI", "DAPI"]}}
    tifffile.imwrite(path, array, metadata=metadata, ome=True)
    with pytest.raises(InputError, match="got channels DAPI; expected .* 0 to 1"):
        read_image(path, channels=["DAPI"])


def test_only_the_pages_of_the_chosen_channels_are_read(tmp_path):
    path = tmp_path / "stack.tif"
    array = written(path, "ZCYX", (3, 2), (), "u2", DEFLATE)
    with tifffile.TiffFile(path) as tif:
        pages = [(page.dataoffsets[0], page.databytecounts[0]) for page in tif.pages]
    data = bytearray(path.read_bytes())
    for number, (offset, n_bytes) in enumerate(pages):
        if number != 3:  # z 1, channel 1
            data[offset : offset + n_bytes] = bytes(n_bytes)
    path.write_bytes(data)
    address = list_planes(path).planes[1]
    found = read_image(path, channels=[1], plane=address)
    np.testing.assert_array_equal(found.pixels, array[1, 1])
    with pytest.raises(InputError, match=r"stack\.tif: this TIFF file is cut off or damaged"):
        read_image(path, channels=[0], plane=address)


def test_a_window_reads_no_more_than_its_tiles(tmp_path):
    path = tmp_path / "image.tif"
    array = written(path, "YX", (), (), "u2", {**DEFLATE, "tile": (16, 32)})
    with tifffile.TiffFile(path) as tif:
        page = tif.pages[0]
        places = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    data = bytearray(path.read_bytes())
    kept = {1 * 3 + 1, 1 * 3 + 2, 2 * 3 + 1, 2 * 3 + 2}  # rows 16 to 48, columns 32 to 83
    for number, (offset, n_bytes) in enumerate(places):
        if number not in kept:
            data[offset : offset + n_bytes] = bytes(n_bytes)
    path.write_bytes(data)
    with open_plane(path) as source:
        assert source.chunk_px == (16, 32)
        found = source.read(slice(16, 48), slice(32, 83))
        np.testing.assert_array_equal(found[..., 0], array[16:48, 32:83])
        with pytest.raises(InputError, match="cut off or damaged"):
            source.read(slice(15, 48), slice(32, 83))


def test_images_of_a_file_by_their_names_and_each_with_its_pixel_size(tmp_path):
    path = tmp_path / "positions.ome.tif"
    arrays = [np.full((3, HEIGHT, WIDTH), 7, "u1"), np.full((2, 31, 37), 11, "u1")]
    with tifffile.TiffWriter(path, ome=True) as tif:
        for array, name, size in zip(arrays, ("Pos 1/2", "Pos:3"), (0.5, 0.25), strict=True):
            metadata = {"axes": "ZYX", "Name": name, "PhysicalSizeX": size, "PhysicalSizeY": size}
            tif.write(array, metadata=metadata, photometric="minisblack")
    planes = list_planes(path).planes
    assert [plane.name for plane in planes] == [
        *(f"Pos-1-2_z{z:03d}" for z in range(3)),
        *(f"Pos-3_z{z:03d}" for z in range(2)),
    ]
    assert str(planes[4]) == "image 1, z 1"
    found = read_image(path, plane=planes[4])
    np.testing.assert_array_equal(found.pixels, arrays[1][1])
    assert found.pixel_size_um == (0.25, 0.25)
    assert read_image(path, plane=planes[0]).pixel_size_um == (0.5, 0.5)
    with pytest.raises(InputError, match=r"not one image; got 2 images in 5 pages; .*segment"):
        read_image(path)


@pytest.mark.parametrize("names", [("a", "A"), ("", "b"), ("..", "c")], ids=str)
def test_images_without_names_of_their_own_are_counted(tmp_path, names):
    path = tmp_path / "positions.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as tif:
        for name in names:
            tif.write(np.zeros((HEIGHT, WIDTH), "u1"), metadata={"Name": name})
    assert [plane.name for plane in list_planes(path).planes] == ["s000", "s001"]


def test_pages_without_metadata_are_taken_for_images_and_that_is_said(tmp_path):
    path = tmp_path / "pages.tif"
    array = np.random.default_rng(5).integers(0, 99, (3, HEIGHT, WIDTH)).astype("u1")
    tifffile.imwrite(path, array, photometric="minisblack", metadata=None)
    listing = list_planes(path)
    assert [plane.name for plane in listing.planes] == ["p000", "p001", "p002"]
    assert listing.note.startswith(f"{path}: 3 pages without named axes are taken for 3 images; ")
    np.testing.assert_array_equal(read_image(path, plane=listing.planes[2]).pixels, array[2])


def test_pages_that_only_libtiff_decodes(tmp_path):
    array = np.random.default_rng(5).integers(0, 99, (3, HEIGHT, WIDTH)).astype("u1")
    pages = [Pillow.fromarray(page) for page in array]
    path = tmp_path / "pages.tif"
    pages[0].save(path, save_all=True, append_images=pages[1:], compression="tiff_lzw")
    for number, address in enumerate(list_planes(path).planes):
        with open_plane(path, address) as source:
            found = source.read(slice(7, 31), slice(2, 71))
        np.testing.assert_array_equal(found[..., 0], array[number, 7:31, 2:71])


def test_imagej_stack_under_one_directory(tmp_path):
    # As ImageJ writes stacks above 4 GB.
    path = tmp_path / "stack.tif"
    array = np.random.default_rng(5).integers(0, 9999, (5, 2, HEIGHT, WIDTH)).astype(">u2")
    description = "ImageJ=1.54f\nimages=10\nchannels=2\nslices=5\nhyperstack=true\n"
    tifffile.imwrite(path, array[0, 0], byteorder=">", description=description, metadata=None)
    whole = path.read_bytes() + array.tobytes()[array[0, 0].nbytes :]
    path.write_bytes(whole)
    planes = list_planes(path).planes
    assert [plane.name for plane in planes] == [f"z{z:03d}" for z in range(5)]
    for z, address in enumerate(planes):
        found = read_image(path, plane=address).pixels
        np.testing.assert_array_equal(found, np.moveaxis(array[z], 0, 2))

    path.write_bytes(whole[:-2])
    with pytest.raises(InputError, match="cut off; got fewer planes than the 10 that"):
        list_planes(path)


def test_palette_pages(tmp_path):
    indices = np.random.default_rng(5).integers(0, 256, (3, HEIGHT, WIDTH)).astype("u1")
    colours = np.random.default_rng(3).integers(0, 256, (3, 256)).astype(np.uint16)
    path = tmp_path / "pages.tif"
    tifffile.imwrite(path, indices, photometric="palette", colormap=colours * 257, metadata=None)
    planes = list_planes(path).planes
    expected = np.moveaxis(colours[:, indices[1]], 0, 2).astype(np.uint8)
    np.testing.assert_array_equal(read_image(path, plane=planes[1]).pixels, expected)


def test_of_a_slide_the_scan_is_read_and_no_picture_beside_it(tmp_path):
    path = tmp_path / "slide.svs"
    scan = np.random.default_rng(5).integers(0, 99, (131, 257, 3)).astype("u1")
    head = "Aperio Image Library v11 \r\n"
    common = {"photometric": "rgb", "metadata": None, **DEFLATE}
    told = f"{head}257x131 (64x64) Q=30|AppMag = 20|MPP = 0.5"
    with tifffile.TiffWriter(path) as tif:
        tif.write(scan, tile=(64, 64), description=told, **common)
        tif.write(scan[:31, :37], description=f"{head}-> 37x31", **common)
        tif.write(scan[::2, ::2], tile=(64, 64), description=told, **common)
        tif.write(scan[:29, :41], subfiletype=1, description=f"{head}label", **common)
        tif.write(scan[:23, :43], subfiletype=9, description=f"{head}macro", **common)
    assert list_planes(path).planes == (PlaneAddress(),)
    found = read_image(path)
    np.testing.assert_array_equal(found.pixels, scan)
    assert found.pixel_size_um == (0.5, 0.5)


def test_what_a_sparse_file_leaves_out_is_empty(tmp_path):
    path = tmp_path / "sparse.tif"
    tile = np.full((16, 32), 7, "u2")
    tiles = iter([tile, None, tile, None, None, tile])
    tifffile.imwrite(path, tiles, shape=(31, 83), dtype="u2", tile=(16, 32), **DEFLATE)
    expected = np.zeros((31, 83), "u2")
    expected[:16, :32] = expected[:16, 64:] = expected[16:, 64:] = 7
    with open_plane(path) as source:
        for rows, columns in ((slice(0, 31), slice(0, 83)), (slice(9, 17), slice(31, 67))):
            found = source.read(rows, columns)[..., 0]
            np.testing.assert_array_equal(found, expected[rows, columns])


def test_several_threads_read_one_plane(tmp_path):
    path = tmp_path / "image.tif"
    array = written(path, "YX", (), (), "u2", {**DEFLATE, "tile": (16, 32)})
    windows = [(slice(y, y + 29), slice(x, x + 41)) for y in range(0, 61, 3) for x in (0, 17, 50)]
    with open_plane(path) as source, ThreadPoolExecutor(4) as pool:
        for window, found in zip(
            windows, pool.map(lambda w: source.read(*w), windows), strict=True
        ):
            np.testing.assert_array_equal(found[..., 0], array[window])


def test_axes_in_another_order(tmp_path):
    path = tmp_path / "odd.tif"
    array = np.random.default_rng(5).integers(0, 99, (HEIGHT, 3, WIDTH)).astype("u2")
    tifffile.imwrite(path, array, metadata={"axes": "YZX"}, photometric="minisblack")
    planes = list_planes(path).planes
    assert [plane.name for plane in planes] == ["z000", "z001", "z002"]
    with open_plane(path, planes[2]) as source:
        assert source.chunk_px is None
        found = source.read(slice(3, 9), slice(5, 7))
    np.testing.assert_array_equal(found[..., 0], array[3:9, 2, 5:7])


def test_a_plane_that_is_not_there(tmp_path):
    path = tmp_path / "stack.tif"
    written(path, "ZYX", (3,), (), "u1", {})
    for address in (
        PlaneAddress("", (("Z", 3),)),
        PlaneAddress("", (("T", 1),)),
        PlaneAddress("1", (("Z", 1),)),
    ):
        with pytest.raises(InputError, match=r"stack\.tif: no such plane"):
            read_image(path, plane=address)


def test_a_stack_cut_off_between_its_pages(tmp_path):
    path = tmp_path / "stack.tif"
    written(path, "ZYX", (3,), (), "u1", DEFLATE)
    with tifffile.TiffFile(path) as tif:
        start = tif.pages[2].offset
    path.write_bytes(path.read_bytes()[: start + 9])
    with pytest.raises(InputError, match="this TIFF file is cut off; got directory 3"):
        list_planes(path)


def test_samples_that_are_not_real_numbers(tmp_path):
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, np.zeros((5, 11, 7), "c8"), metadata={"axes": "ZYX"})
    with pytest.raises(InputError, match="samples that are not real numbers; got dtype complex64"):
        read_image(path, plane=list_planes(path).planes[0])


def test_damage_that_tifffile_meets_while_it_opens_a_file(tmp_path):
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, np.zeros((5, 11, 7), "u1"), metadata={"axes": "ZYX"})
    data = bytearray(path.read_bytes())
    entry = data.index(struct.pack("<HHI", 256, 4, 1))  # ImageWidth
    data[entry + 8 : entry + 12] = struct.pack("<I", 0)
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"stack\.tif: "):
        read_image(path, plane=PlaneAddress("", (("Z", 1),)))
