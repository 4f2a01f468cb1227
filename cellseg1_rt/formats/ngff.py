"""OME-Zarr 0.4 and 0.5: which images a folder holds, their axes, channels and pixel size.

A folder is one image, a plate (its wells and fields), a well, or a series as Bio-Formats writes it.
Of a pyramid the full resolution is taken. Imports zarr (extra ``zarr``) inside.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cellseg1_rt.errors import CellSeg1RtError, InputError
from cellseg1_rt.extras import require
from cellseg1_rt.formats.pixel_size import checked_pixel_size, um_per_unit
from cellseg1_rt.formats.plane_names import Listing, Scene, listing_of, scene_parts

if TYPE_CHECKING:
    import zarr

__all__ = ["NgffImage", "list_zarr_planes", "open_ngff_image", "require_zarr"]

_VERSIONS = ("0.4", "0.5")
Value = TypeVar("Value")


@dataclass(frozen=True)
class NgffImage:
    """One multiscale image, opened at its full resolution.

    Attributes
    ----------
    folder : of the array, below which its chunks lie.
    array : zarr's.
    axes : a name each, upper case; Y and X are among them, and C where there are channels.
    channels : their names; empty where the image does not name them.
    pixel_size_um : micrometres a pixel (y, x), or None where the image does not say.
    name : its own, or empty.
    """

    folder: Path
    array: zarr.Array[Any]
    axes: tuple[str, ...]
    channels: tuple[str, ...]
    pixel_size_um: tuple[float, float] | None
    name: str

    @property
    def stacked(self) -> tuple[tuple[str, int], ...]:
        """Name and length of the axes along which planes are stacked, all longer than 1."""
        pairs = zip(self.axes, self.array.shape, strict=True)
        return tuple((axis, int(n)) for axis, n in pairs if n > 1 and axis not in ("C", "Y", "X"))


def list_zarr_planes(path: Path) -> Listing:
    """The planes of a Zarr folder; pixels are not read.

    What cannot be read of a well or an image in it counts as one plane, so that it fails for itself
    when it is its turn.

    Raises
    ------
    InputError : if the folder is not OME-Zarr 0.4 or 0.5.
    MissingExtraError : if zarr is not installed.
    """
    require_zarr()
    attributes = _attributes(path)
    if "plate" in attributes:
        return listing_of(_plate_scenes(path, attributes["plate"]))
    if "well" in attributes:
        return listing_of(_well_scenes(path, "", attributes["well"]))
    if "bioformats2raw.layout" in attributes:
        return listing_of(_series_scenes(path))
    return listing_of([Scene("", "", open_ngff_image(path, "").stacked)])


def open_ngff_image(path: Path, key: str) -> NgffImage:
    """The image at ``key``, a path below the folder; the folder's own if it is empty.

    Raises
    ------
    InputError : if it is not there, damaged, of another version, or has no Y and X.
    MissingExtraError : if zarr is not installed.
    """
    require_zarr()
    folder = path / key
    attributes = _attributes(folder)
    return _told(folder, lambda: _image_of(folder, attributes))


def require_zarr() -> None:
    """Raise ``MissingExtraError`` with the install line unless zarr can be found."""
    require("zarr", extra="zarr", needed_for="reading OME-Zarr")


def _plate_scenes(path: Path, plate: Mapping[str, Any]) -> list[Scene]:
    scenes = []
    for well in _told(path, lambda: [str(each["path"]) for each in plate["wells"]]):
        part = well.replace("/", "")
        try:
            scenes += _well_scenes(path, well, _attributes(path / well).get("well", {}))
        except InputError:
            scenes.append(Scene(well, part))
    return scenes


def _well_scenes(path: Path, well: str, told: Mapping[str, Any]) -> list[Scene]:
    scenes = []
    for field in _told(path / well, lambda: [str(each["path"]) for each in told["images"]]):
        key = f"{well}/{field}" if well else field
        part = f"{well.replace('/', '')}_{field}" if well else field
        scenes.append(Scene(key, part, _stacked_of(path, key)))
    return scenes


def _series_scenes(path: Path) -> list[Scene]:
    """The images that Bio-Formats numbers from 0, or lists in the group ``OME``."""
    keys = []
    if (path / "OME").is_dir():
        keys = [str(key) for key in _attributes(path / "OME").get("series", [])]
    while not keys or (not (path / "OME").is_dir() and (path / str(len(keys))).is_dir()):
        keys.append(str(len(keys)))
    names = []
    for key in keys:
        try:
            names.append(open_ngff_image(path, key).name)
        except InputError:
            names.append("")
    parts = scene_parts(names)
    pairs = zip(keys, parts, strict=True)
    return [Scene(key, part, _stacked_of(path, key)) for key, part in pairs]


def _stacked_of(path: Path, key: str) -> tuple[tuple[str, int], ...]:
    try:
        return open_ngff_image(path, key).stacked
    except InputError:
        return ()


def _attributes(folder: Path) -> dict[str, Any]:
    """What NGFF says of a group: in 0.5 below the key ``ome``, in 0.4 beside other attributes."""
    import zarr

    held = _told(folder, lambda: zarr.open_group(str(folder), mode="r").attrs.asdict())
    told = held.get("ome", held)
    return dict(told) if isinstance(told, Mapping) else {}


def _image_of(folder: Path, attributes: Mapping[str, Any]) -> NgffImage:
    import zarr

    every = attributes.get("multiscales", [])
    if len(every) != 1:
        raise InputError(
            "not an OME-Zarr image",
            where=folder,
            got=f"{len(every)} multiscales in its metadata",
            expected="an image, a well or a plate of OME-Zarr 0.4 or 0.5",
        )
    (multiscale,) = every
    version = attributes.get("version", multiscale.get("version"))
    if version not in _VERSIONS:
        raise InputError(
            "OME-Zarr of another version",
            where=folder,
            got=version,
            expected=" or ".join(_VERSIONS),
            fix="convert it, with ngff-zarr or bioformats2raw",
        )
    axes = tuple(
        "C" if axis.get("type") == "channel" else str(axis["name"]).upper()
        for axis in multiscale["axes"]
    )
    dataset = multiscale["datasets"][0]
    array = zarr.open_array(str(folder / dataset["path"]), mode="r")
    if len(axes) != array.ndim or len(set(axes)) != len(axes) or not {"Y", "X"} <= set(axes):
        raise InputError(
            "axes that are not those of planes",
            where=folder,
            got=f"axes {', '.join(axes)}, shape {array.shape}",
            expected="y, x and at most one axis of channels",
        )
    names = [str(each.get("label", "")) for each in attributes.get("omero", {}).get("channels", [])]
    return NgffImage(
        folder / dataset["path"],
        array,
        axes,
        tuple(names) if len(names) == dict(zip(axes, array.shape, strict=True)).get("C", 1) else (),
        _pixel_size_of(multiscale, dataset, axes),
        str(multiscale.get("name", "")),
    )


def _pixel_size_of(
    multiscale: Mapping[str, Any], dataset: Mapping[str, Any], axes: tuple[str, ...]
) -> tuple[float, float] | None:
    """The level's scale times the image's, where the axes have a unit that is known."""
    sizes = []
    for letter in "YX":
        place = axes.index(letter)
        um = um_per_unit(str(multiscale["axes"][place].get("unit", "")))
        if um is None:
            return None
        for holder in (dataset, multiscale):
            for step in holder.get("coordinateTransformations", []):
                um *= step["scale"][place] if step["type"] == "scale" else 1.0
        sizes.append(um)
    return checked_pixel_size(sizes[0], sizes[1])


def _told(where: Path, call: Callable[[], Value]) -> Value:
    """The call's value; whatever zarr or damaged metadata raise becomes one error."""
    try:
        return call()
    except CellSeg1RtError:
        raise
    except Exception as error:
        raise InputError(
            "this Zarr folder cannot be read",
            where=where,
            got=f"{type(error).__name__}: {error}",
            expected="an image, a well or a plate of OME-Zarr 0.4 or 0.5",
            fix="copy or convert it again",
        ) from error
