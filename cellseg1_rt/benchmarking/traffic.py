"""Bytes that the stages without matrix products have to move, from what one image asked of them.

A floor: each array that a stage takes or gives counts once for every time it has to be read or
written; what a stage makes and uses in passing does not count. Imports the standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Asked", "bytes_of_plain_masks", "bytes_of_stages"]

FLOAT32 = 4


@dataclass
class Asked:
    """What one image asked of the stages; filled in while it runs.

    Attributes
    ----------
    file_bytes, pixel_bytes, rgb_bytes : the image's file, its array as read, as uint8 RGB.
    input_bytes : uint8 inputs of all crops.
    crops : images encoded.
    calls : prompts of each call of the decoder.
    survivors : masks of each call of the mask head.
    logit_bytes : all logits of the head.
    packed_bytes : words of the candidates' masks.
    label_bytes : the label map.
    written_bytes : files written.
    """

    file_bytes: int = 0
    pixel_bytes: int = 0
    rgb_bytes: int = 0
    input_bytes: int = 0
    crops: int = 0
    calls: tuple[int, ...] = ()
    survivors: tuple[int, ...] = ()
    logit_bytes: int = 0
    packed_bytes: int = 0
    label_bytes: int = 0
    written_bytes: int = 0


def bytes_of_stages(asked: Asked) -> dict[str, int]:
    """Bytes of each stage of this package that runs no graph.

    ``read`` reads the file and writes the array; ``prepare`` reads the array, writes and reads the
    RGB image, and writes the inputs; ``candidates`` reads the logits once and writes the packed
    masks; ``nms`` reads these once; ``clean+paint`` reads them, and writes and reads the label map;
    ``write`` reads the labels and writes the files.
    """
    return {
        "read": asked.file_bytes + asked.pixel_bytes,
        "prepare": asked.pixel_bytes + 2 * asked.rgb_bytes + asked.input_bytes,
        "candidates": asked.logit_bytes + asked.packed_bytes,
        "nms": asked.packed_bytes,
        "clean+paint": asked.packed_bytes + 2 * asked.label_bytes,
        "write": asked.label_bytes + asked.written_bytes,
    }


def bytes_of_plain_masks(prompts: int, survivors: int, model_px: int, crop_px: int) -> int:
    """Bytes of upsampling and filtering every mask at full size, as the plain path does.

    For each prompt the logits of (S/4)² numbers are read, S² are written and read, and those of the
    crop's ``crop_px`` pixels are written. For each survivor of the score they are copied, read
    three times (two counts and the mask), and a mask of a byte a pixel is written.
    """
    of_prompt = FLOAT32 * (model_px**2 // 16 + 2 * model_px**2 + crop_px)
    of_survivor = FLOAT32 * (2 * crop_px + 3 * crop_px) + crop_px
    return prompts * of_prompt + survivors * of_survivor
