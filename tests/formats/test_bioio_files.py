"""ND2, CZI and LIF through bioio: a stand-in for it, and a real CZI where one can be made."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from cellseg1_rt.errors import InputError, MissingExtraError
from cellseg1_rt.formats import read_image
from cellseg1_rt.formats.planes import PlaneAddress
from cellseg1_rt.formats.stacks import list_planes, open_plane

SIZES = SimpleNamespace(Z=1.0, Y=0.5, X=0.25)


class Lazy:
    """What gives its array when it is asked to."""

    def __init__(self, array: np.ndarray, computed: list[tuple[int, ...]]) -> None:
        self._array, self._computed = array, computed

    def compute(self) -> np.ndarray:
        self._computed.append(self._array.shape)
        return self._array


class StandIn:
    """The part of ``bioio.BioImage`` that is used, over arrays TCZYX or TCZYXS by scene."""

    scenes_held: dict[str, np.ndarray]
    names: list[str] | None
    sizes: Any = SIZES
    options: dict[str, Any]
    computed: list[tuple[int, ...]]

    def __init__(self, path: Any, **options: Any) -> None:
        type(self).options = options
        if path.read_bytes() == b"damaged":
            raise RuntimeError("no header")
        self.scenes = tuple(self.scenes_held)
        self.set_scene(0)

    def set_scene(self, number: int) -> None:
        self._array = self.scenes_held[self.scenes[number]]
        order = "TCZYXS"[: self._array.ndim]
        lengths = dict(zip(order, self._array.shape, strict=True))
        self.dims = SimpleNamespace(order=order, **lengths)
        self.shape, self.dtype = self._array.shape, self._array.dtype
        self.channel_names, self.physical_pixel_sizes = self.names, self.sizes

    def get_image_dask_data(self, order: str, **at: Any) -> Lazy:
        held = self._array
        left = list(self.dims.order)
        for axis in "TCZ":
            index = at.get(axis, 0)
            held = np.take(held, index, left.index(axis))
            if isinstance(index, int):
                left.remove(axis)
        return Lazy(held.transpose([left.index(axis) for axis in order]), self.computed)


@pytest.fixture
def bioio(monkeypatch):
    """The stand-in, with two scenes."""

    class Image(StandIn):
        pass

    Image.scenes_held = {
        "Pos 1": np.random.default_rng(5).integers(0, 99, (2, 3, 5, 61, 83)).astype("u2"),
        "Pos 2": np.random.default_rng(7).integers(0, 99, (1, 3, 1, 31, 37)).astype("u2"),
    }
    Image.names, Image.computed = ["DAPI", "GFP", "TL"], []
    module = ModuleType("bioio")
    module.BioImage = Image
    monkeypatch.setitem(sys.modules, "bioio", module)
    monkeypatch.setattr("cellseg1_rt.extras.is_installed", lambda package: True)
    return Image


@pytest.fixture(params=["nd2", "czi", "lif"])
def path(request, tmp_path):
    path = tmp_path / f"image.{request.param.upper()}"
    path.write_bytes(b"whole")
    return path


def test_planes_of_every_scene(bioio, path):
    planes = list_planes(path).planes
    assert [plane.name for plane in planes] == [
        *(f"Pos-1_t{t:03d}_z{z:03d}" for t in range(2) for z in range(5)),
        "Pos-2",
    ]
    assert bioio.computed == []
    for plane in planes:
        array = list(bioio.scenes_held.values())[int(plane.scene)]
        at = dict(plane.at)
        expected = np.moveaxis(array[at.get("T", 0), :, at.get("Z", 0)], 0, 2)
        found = read_image(path, plane=plane)
        np.testing.assert_array_equal(found.pixels, expected, strict=True)
        assert found.pixel_size_um == (0.5, 0.25)
    assert len(bioio.computed) == len(planes)
    assert bioio.options == ({} if path.suffix == ".ND2" else {"chunk_dims": ["Y", "X"]})


def test_channels_by_number_and_name(bioio, path):
    plane = PlaneAddress("0", (("T", 1), ("Z", 2)))
    array = bioio.scenes_held["Pos 1"][1, :, 2]
    found = read_image(path, channels=["TL", 0], plane=plane).pixels
    np.testing.assert_array_equal(found, np.moveaxis(array[[2, 0]], 0, 2))
    np.testing.assert_array_equal(read_image(path, channels=[1], plane=plane).pixels, array[1])
    assert bioio.computed == [(61, 83, 2), (61, 83, 1)]
    with open_plane(path, plane, ["GFP"]) as source:
        np.testing.assert_array_equal(
            source.read(slice(7, 9), slice(3, 5))[..., 0], array[1, 7:9, 3:5]
        )
    with pytest.raises(InputError, match=r"got channels YFP; .* \(DAPI, GFP, TL\)"):
        read_image(path, channels=["YFP"], plane=plane)


def test_colour(bioio, path):
    array = np.random.default_rng(5).integers(0, 99, (1, 1, 1, 61, 83, 3)).astype("u1")
    bioio.scenes_held = {"only": array}
    assert list_planes(path).planes == (PlaneAddress(),)
    np.testing.assert_array_equal(read_image(path).pixels, array[0, 0, 0])
    bioio.scenes_held = {"only": np.repeat(array, 2, 1)}
    with pytest.raises(InputError, match="two axes of channels; got 2 channels of 3 samples"):
        read_image(path)


def test_no_pixel_size_and_no_names(bioio, path):
    bioio.sizes, bioio.names = SimpleNamespace(Z=None, Y=None, X=None), None
    found = read_image(path, plane=PlaneAddress("1"), channels=[2, 1])
    assert found.pixel_size_um is None
    assert found.pixels.shape == (31, 37, 2)


def test_a_stack_without_a_plane(bioio, path):
    with pytest.raises(
        InputError, match="a stack of planes; got 11 planes: Pos-1_t000_z000 to Pos-2"
    ):
        read_image(path)


def test_damaged_and_missing_files(bioio, path):
    path.write_bytes(b"damaged")
    kind = path.suffix[1:]
    with pytest.raises(InputError, match=rf"this {kind} file is cut off or damaged; .* no header"):
        list_planes(path)
    path.unlink()
    with pytest.raises(InputError, match="cannot open this file; got no such file"):
        read_image(path)


@pytest.mark.parametrize("missing", ["bioio", "bioio_{}"])
def test_without_the_extra(path, monkeypatch, missing):
    kind = path.suffix[1:]
    package, extra = missing.format(kind.lower()), "czi" if kind == "CZI" else "bioio"
    monkeypatch.setattr("cellseg1_rt.extras.is_installed", lambda name: name != package)
    with pytest.raises(
        MissingExtraError,
        match=rf"reading {kind} needs the package '{package}'.*'cellseg1-rt\[{extra}\]'",
    ):
        list_planes(path)


@pytest.mark.filterwarnings("ignore")  # of other people's libraries
def test_a_real_czi(tmp_path):
    czi = pytest.importorskip("pylibCZIrw.czi")
    pytest.importorskip("bioio_czi")
    path = tmp_path / "image.czi"
    array = np.random.default_rng(5).integers(0, 60_000, (2, 3, 2, 61, 83)).astype("u2")  # TZCYX
    with czi.create_czi(str(path)) as file:
        for t, z, c in np.ndindex(*array.shape[:3]):
            file.write(array[t, z, c][..., None], plane={"T": t, "Z": z, "C": c})
        file.write_metadata(
            document_name="image",
            channel_names={0: "DAPI", 1: "GFP"},
            scale_x=0.25e-6,
            scale_y=0.5e-6,
        )
    planes = list_planes(path).planes
    assert [plane.name for plane in planes] == [
        f"t{t:03d}_z{z:03d}" for t in range(2) for z in range(3)
    ]
    for plane, (t, z) in zip(planes, np.ndindex(2, 3), strict=True):
        found = read_image(path, plane=plane, channels=["GFP", 0])
        np.testing.assert_array_equal(found.pixels, np.moveaxis(array[t, z, [1, 0]], 0, 2))
        assert found.pixel_size_um == pytest.approx((0.5, 0.25))
