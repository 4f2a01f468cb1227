"""Names and order of planes, choice of channels, and planes that are in memory already."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image as Pillow

from cellseg1_rt.errors import ConfigError, InputError
from cellseg1_rt.formats.channels import parse_channels, picked_channels
from cellseg1_rt.formats.plane_names import Scene, listing_of, scene_parts
from cellseg1_rt.formats.planes import ArrayPlane, PlaneAddress
from cellseg1_rt.formats.stacks import list_planes, open_plane


@pytest.mark.parametrize("shape", [(61, 83), (61, 83, 1), (61, 83, 3)], ids=str)
def test_a_plane_in_memory(shape):
    pixels = np.random.default_rng(5).integers(0, 99, shape).astype(np.uint8)
    before = pixels.copy()
    plane = ArrayPlane(pixels, (0.5, 0.25))
    assert plane.shape == (61, 83, shape[2] if len(shape) == 3 else 1)
    assert (plane.dtype, plane.pixel_size_um, plane.chunk_px) == (np.uint8, (0.5, 0.25), None)
    window = plane.read(slice(7, 31), slice(70, 99))
    np.testing.assert_array_equal(window, pixels.reshape(plane.shape)[7:31, 70:83], strict=True)
    window[:] = 0
    np.testing.assert_array_equal(pixels, before)


def names(*scenes: Scene) -> list[str]:
    return [plane.name for plane in listing_of(scenes).planes]


def test_names_of_planes():
    assert names(Scene("", "")) == [""]
    assert names(Scene("", "", (("Z", 2),))) == ["z000", "z001"]
    assert names(Scene("", "", (("T", 2), ("Z", 2)))) == [
        "t000_z000", "t000_z001", "t001_z000", "t001_z001",
    ]  # fmt: skip
    assert names(Scene("0", "A1_0"), Scene("1", "A1_1", (("Z", 2),))) == [
        "A1_0", "A1_1_z000", "A1_1_z001",
    ]  # fmt: skip
    assert names(Scene("", "", (("Q", 2), ("I", 2))))[-1] == "p001_p001"
    assert names(Scene("", "", (("ANGLE", 2),)))[-1] == "angle001"


@pytest.mark.parametrize(
    ("length", "first", "last"),
    [(1000, "z000", "z999"), (1001, "z0000", "z1000"), (20_000, "z00000", "z19999")],
    ids=str,
)
def test_digits_grow_with_the_stack(length, first, last):
    found = names(Scene("", "", (("Z", length),)))
    assert (found[0], found[-1]) == (first, last)
    assert sorted(found) == found


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], []),
        (["anything"], [""]),
        (["a b", "c/d"], ["a-b", "c-d"]),
        (["Größe", "x+1.5"], ["Größe", "x+1.5"]),
        (["a", "a"], ["s000", "s001"]),
        (["a", ""], ["s000", "s001"]),
        (["a b", "a/b"], ["s000", "s001"]),
        (["../a", "b"], ["a", "b"]),
    ],
    ids=str,
)
def test_names_of_scenes(given, expected):
    assert scene_parts(given) == expected


def test_how_an_address_is_written():
    assert str(PlaneAddress()) == ""
    assert str(PlaneAddress("A/1/0", (("T", 2), ("Z", 3)))) == "image A/1/0, t 2, z 3"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0", (0,)), ("2,0", (2, 0)), ("DAPI, GFP", ("DAPI", "GFP")), ("1,Cy5", (1, "Cy5"))],
    ids=str,
)
def test_channels_as_they_are_typed(text, expected):
    assert parse_channels(text) == expected


@pytest.mark.parametrize("text", ["", ",", "0,", "0,1,2,3,4"], ids=repr)
def test_what_is_no_choice_of_channels(text):
    with pytest.raises(ConfigError, match="--channels: not a choice of channels"):
        parse_channels(text)


@pytest.mark.parametrize("choice", [[], [3], [-1], ["B"], ["A"], [0, 1, 2, 0, 1]], ids=str)
def test_channels_that_are_not_there(choice):
    with pytest.raises(InputError, match=r"a\.tif: no such choice .* channels 0 to 2 \(A, A, C\)"):
        picked_channels(3, choice, where="a.tif", names=["A", "A", "C"])


def test_files_of_one_plane_are_read_whole(tmp_path):
    pixels = np.random.default_rng(5).integers(0, 99, (61, 83, 3)).astype(np.uint8)
    path = tmp_path / "image.png"
    Pillow.fromarray(pixels).save(path)
    assert list_planes(path).planes == (PlaneAddress(),)
    with open_plane(path, channels=[2, 0]) as source:
        assert source.shape == (61, 83, 2)
        found = source.read(slice(7, 31), slice(5, 9))
    np.testing.assert_array_equal(found, pixels[7:31, 5:9, [2, 0]])
