"""PNG, JPEG and BMP, decoded as stored.

An EXIF orientation is not applied: microscope software counts pixels as they lie in the file, and
labels drawn on them would otherwise be turned against the image.

Imports pillow, and opencv for 16-bit colour PNG, which pillow would cut to 8 bits.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import BmpImagePlugin, Image, ImageFile, JpegImagePlugin, PngImagePlugin

from cellseg1_rt.errors import InputError
from cellseg1_rt.formats.decoding import Decoded

__all__ = ["decode_raster", "samples_from_pillow"]

# Opened by class, not by Image.open: that one refuses planes above 179 million pixels, which are
# ordinary for a slide, and would look at the suffix.
_PLUGINS: dict[str, Callable[[io.BytesIO], ImageFile.ImageFile]] = {
    "PNG": PngImagePlugin.PngImageFile,
    "JPEG": JpegImagePlugin.JpegImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
}
_PNG_BIT_DEPTH, _PNG_COLOUR_TYPE = 24, 25
_PNG_COLOUR_TYPES = {2: "RGB", 4: "LA", 6: "RGBA"}


def decode_raster(path: Path, kind: str) -> Decoded:
    """Decode a file of ``kind`` PNG, JPEG or BMP.

    Raises
    ------
    InputError : for an animation or a colour model that is not known.
    Exception : whatever the decoder raises on a file that is cut off or damaged.
    """
    data = path.read_bytes()
    with _PLUGINS[kind](io.BytesIO(data)) as image:
        frames = getattr(image, "n_frames", 1)
        if frames != 1:
            raise InputError(
                "an animation",
                where=path,
                got=f"{frames} frames",
                expected="one plane",
                fix="save the frame to segment as its own file",
            )
        image.load()
        if kind == "PNG" and data[_PNG_BIT_DEPTH] == 16 and data[_PNG_COLOUR_TYPE] != 0:
            return Decoded(_deep_png(data))
        samples, palette = samples_from_pillow(image, path)
        if kind == "PNG" and image.mode == "I":
            samples = samples.astype(np.uint16)  # older pillow widens 16-bit grey
    return Decoded(samples, palette, lossy=kind == "JPEG")


def samples_from_pillow(
    image: Image.Image, path: Path
) -> tuple[NDArray[Any], NDArray[np.uint8] | None]:
    """Samples [H, W] or [H, W, 3] of a loaded pillow image without alpha, and its palette if any.

    Raises
    ------
    InputError : for a colour model that is not known.
    """
    mode = image.mode
    if mode in ("P", "PA"):
        indices = np.array(image if mode == "P" else image.getchannel(0))
        colours = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
        return indices, np.pad(colours, ((0, 256 - len(colours)), (0, 0)))
    if mode in ("1", "L", "I", "F") or mode.startswith("I;16"):
        return np.array(image), None
    if mode in ("LA", "La"):
        return np.array(image)[..., 0], None
    if mode in ("RGB", "RGBA", "RGBX"):
        return np.array(image)[..., :3], None
    if mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        return np.array(image.convert("RGB")), None
    raise InputError(
        "a colour model that is not known",
        where=path,
        got=f"pillow mode {mode}",
        expected="grey, grey with alpha, RGB, RGBA, CMYK or a palette",
        fix="save it as RGB",
    )


def _deep_png(data: bytes) -> NDArray[Any]:
    """16-bit samples of a PNG with colour or alpha, which pillow has already found whole."""
    import cv2

    pixels: Any = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None or pixels.dtype != np.uint16:
        colours = _PNG_COLOUR_TYPES.get(data[_PNG_COLOUR_TYPE], "unknown")
        raise ValueError(f"opencv cannot decode this 16-bit {colours} PNG")
    if data[_PNG_COLOUR_TYPE] == 4:  # grey with alpha, which opencv spreads over B, G, R
        return np.asarray(pixels[..., 0])
    return np.asarray(pixels[..., 2::-1])
