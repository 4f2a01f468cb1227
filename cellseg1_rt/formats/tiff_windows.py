"""Windows of a TIFF plane: only the strips, tiles or rows they touch are read and decoded.

What tifffile cannot decode by itself is decoded whole, by the libtiff in pillow and opencv, and
kept while the plane is open; so are planes that do not lie in pages of their own. Values are not
inverted where white is stored as zero. Imports tifffile.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tifffile import TiffFrame, TiffPage

from cellseg1_rt.errors import CellSeg1RtError
from cellseg1_rt.formats.decoding import damaged_file
from cellseg1_rt.formats.tiff_scenes import Place, TiffScene, cut_off

__all__ = ["TiffPlane"]

Window = tuple[slice, slice]


class TiffPlane:
    """One plane of an open file; a ``PlaneSource``. Any thread may read.

    Parameters
    ----------
    scene : the image it is of.
    indices : its place on each of the scene's stacked axes.
    path : the file, for errors.
    pixel_size_um : micrometres a pixel (y, x), or None.
    channels : which of the plane's own, in this order; None is all.

    Raises
    ------
    InputError : if a page of it is not in the file, or not all of its bytes.
    """

    def __init__(
        self,
        scene: TiffScene,
        indices: tuple[int, ...],
        path: Path,
        pixel_size_um: tuple[float, float] | None = None,
        channels: Sequence[int] | None = None,
    ) -> None:
        self._scene, self._path, self._lock = scene, path, threading.Lock()
        self.pixel_size_um = pixel_size_um
        self._page = scene.series.keyframe
        self._whole: dict[int, NDArray[Any]] = {}
        self._odd: NDArray[Any] | None = None
        if not scene.is_page_by_page:
            self._odd = _transposed(scene, indices)
            numbers = range(self._odd.shape[2]) if channels is None else channels
            self._odd = self._odd[..., list(numbers)]
            count = len(numbers)
        else:
            places = scene.places(indices)
            self._places = places if channels is None else [places[c] for c in channels]
            count = len(self._places)
            for page in {place.page for place in self._places}:
                self._require_whole(page)
        lengths = dict(scene.axes)
        self.shape = (lengths["Y"], lengths["X"], count)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the samples, native byte order."""
        return np.dtype(self._scene.series.dtype).newbyteorder("=")

    @property
    def chunk_px(self) -> tuple[int, int] | None:
        """(rows, columns) of a strip or tile; None where the plane is read whole."""
        page = self._page
        if self._odd is not None or not self._scene.is_as_stored:
            return None
        return (1, self.shape[1]) if page.is_final else _segment_px(page)

    def read(self, rows: slice, columns: slice) -> NDArray[Any]:
        """Samples [h, w, C] of the window.

        Raises
        ------
        InputError : if what it touches is damaged, or no codec at hand can decode it.
        """
        try:
            return self._read(rows, columns)
        except CellSeg1RtError:
            raise
        # Decoders meet damaged bytes with every class of exception.
        except Exception as error:
            raise damaged_file("TIFF", self._path, error) from error

    def _read(self, rows: slice, columns: slice) -> NDArray[Any]:
        if self._odd is not None:
            return self._odd[rows, columns].copy()
        height, width, count = self.shape
        window = slice(*rows.indices(height)), slice(*columns.indices(width))
        size = [max(0, part.stop - part.start) for part in window]
        samples = np.empty((*size, count), self.dtype)
        parts: dict[tuple[int, int, int], NDArray[Any]] = {}
        with self._lock:
            for channel, place in enumerate(self._places):
                part = (place.page, place.separate, place.depth)
                if part not in parts:
                    parts[part] = self._part(place, window)
                samples[..., channel] = parts[part][..., place.sample]
        return samples

    def _part(self, place: Place, window: Window) -> NDArray[Any]:
        """The samples [h, w, S] that lie side by side in a page, of the window."""
        if place.page not in self._whole and self._scene.is_as_stored:
            try:
                return self._decoded(place, window)
            except (ValueError, ImportError) as error:
                # Said by tifffile of a codec that only the imagecodecs package has.
                if isinstance(error, ValueError) and "imagecodecs" not in str(error):
                    raise
        if place.page not in self._whole:
            from cellseg1_rt.formats.tiff_fallback import plane_from_libtiff

            index = int(self._page_of(place.page).index)
            plane = plane_from_libtiff(index, self._page, self._path)
            self._whole[place.page] = plane.reshape(*plane.shape[:2], -1)
        return self._whole[place.page][window][..., place.separate :]

    def _decoded(self, place: Place, window: Window) -> NDArray[Any]:
        page = self._page
        if page.is_final:
            return self._rows(place, window)
        _, _, height, width, beside = page.shaped
        rows, columns = window
        size = max(0, rows.stop - rows.start), max(0, columns.stop - columns.start)
        found = np.full((*size, beside), page.nodata, self.dtype)
        for samples, top, left in self._segments(place, window):
            bottom = min(top + samples.shape[0], height, rows.stop)
            right = min(left + samples.shape[1], width, columns.stop)
            first, start = max(top, rows.start), max(left, columns.start)
            found[first - rows.start : bottom - rows.start, start - columns.start :][
                :, : right - start
            ] = samples[first - top : bottom - top, start - left : right - left]
        return found

    def _rows(self, place: Place, window: Window) -> NDArray[Any]:
        """Of a page whose samples lie in the file as they are: no more than the rows."""
        page = self._page
        _, depth, height, width, beside = page.shaped
        rows, columns = window
        count = max(0, rows.stop - rows.start)
        stored = self.dtype.newbyteorder(self._file.byteorder)
        first = (place.separate * depth + place.depth) * height + rows.start
        offset = self._offset_of(place.page) + first * width * beside * stored.itemsize
        if count == 0:
            return np.empty((0, max(0, columns.stop - columns.start), beside), self.dtype)
        self._file.filehandle.seek(offset)
        data: NDArray[Any] = self._file.filehandle.read_array(stored, count * width * beside)
        return data.reshape(count, width, beside)[:, columns]

    def _segments(self, place: Place, window: Window) -> Iterator[tuple[NDArray[Any], int, int]]:
        """Decoded strips or tiles [h, w, S] that the window touches, and where each begins."""
        key, page = self._page, self._page_of(place.page)
        high, wide = _segment_px(key)
        _, depth, height, width, _ = key.shaped
        deep = key.tiledepth if key.is_tiled else 1
        grid = -(-depth // deep), -(-height // high), -(-width // wide)
        rows, columns = window
        options = {}
        if key.compression in (6, 7, 34892, 33007):  # JPEG, as in TiffPage.segments
            options = {"jpegtables": page.jpegtables, "jpegheader": key.jpegheader}
        for y in range(rows.start // high, -(-rows.stop // high)):
            for x in range(columns.start // wide, -(-columns.stop // wide)):
                z = place.separate * grid[0] + place.depth // deep
                index = (z * grid[1] + y) * grid[2] + x
                data = self._bytes_of(page, index)
                if data is not None:
                    decoded: Any = key.decode(data, index, **options)[0]
                    yield decoded[place.depth % deep], y * high, x * wide

    def _bytes_of(self, page: TiffPage | TiffFrame, index: int) -> bytes | None:
        offset, n_bytes = page.dataoffsets[index], page.databytecounts[index]
        if n_bytes == 0:  # a sparse file leaves out what is empty
            return None
        self._file.filehandle.seek(offset)
        data: bytes = self._file.filehandle.read(n_bytes)
        return data

    @property
    def _file(self) -> Any:
        return self._page.parent

    @property
    def _is_under_one_page(self) -> bool:
        """Whether all planes follow the only page's own data, as ImageJ writes above 4 GB."""
        return bool(self._scene.series.is_truncated)

    def _offset_of(self, page: int) -> int:
        start = self._scene.series.dataoffset if self._is_under_one_page else None
        if start is not None:
            return int(start) + page * int(self._page.nbytes)
        return int(self._page_of(page).dataoffsets[0])

    def _page_of(self, index: int) -> TiffPage | TiffFrame:
        series = self._scene.series
        page = series[index] if index < len(series) else None
        if page is None:
            raise cut_off(self._path, "a page that is not in it")
        return page

    def _require_whole(self, page: int) -> None:
        """Every strip and tile must lie in the file: tifffile pads and fills without an error."""
        size = self._file.filehandle.size
        if self._is_under_one_page:
            ends = [self._offset_of(page) + self._page.nbytes]
        else:
            found = self._page_of(page)
            pairs = zip(found.dataoffsets, found.databytecounts, strict=False)
            ends = [offset + n_bytes for offset, n_bytes in pairs]
        if max(ends, default=0) > size:
            raise cut_off(self._path, f"pixels up to byte {max(ends):,} of {size:,}")


def _segment_px(page: TiffPage) -> tuple[int, int]:
    if page.is_tiled:
        return int(page.tilelength), int(page.tilewidth)
    return min(int(page.rowsperstrip), int(page.imagelength)), int(page.imagewidth)


def _transposed(scene: TiffScene, indices: tuple[int, ...]) -> NDArray[Any]:
    """A plane [H, W, C] of an image in any other order of axes; all of the image is read."""
    samples = scene.series.asarray(maxworkers=1).reshape([n for _, n in scene.axes])
    left = iter(indices)
    kept = [(axis, n) for axis, n in scene.axes if axis in "YX" or (axis in "SC" and n > 1)]
    picked = tuple(
        slice(None) if (axis, n) in kept else next(left) if n > 1 else 0 for axis, n in scene.axes
    )
    letters = [axis for axis, _ in kept]
    order = [letters.index(axis) for axis in ("Y", "X", *(a for a in letters if a in "SC"))]
    plane = samples[picked].transpose(order)
    return plane.reshape(*plane.shape[:2], -1)[..., : scene.channels]
