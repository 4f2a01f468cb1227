"""Readers and writers: files on one side, plain arrays on the other.

It reads one plane an image (PNG, JPEG, TIFF, BMP, NPY, NIfTI) as stored, label maps, and what
annotation tools save; it writes label maps, tables and overlay pictures, whole or not at all. It
does not normalise, resize or rotate pixels and never picks a plane out of a stack.

May import numpy, opencv, pillow, tifffile, roifile, scipy (the pieces of a binary mask) and, for
NIfTI only, nibabel. Libraries are imported when a file of their kind is met, so that importing this
package costs numpy and nothing else.
"""

from cellseg1_rt.formats.annotations import read_annotation
from cellseg1_rt.formats.images import IMAGE_SUFFIXES, Image, read_image
from cellseg1_rt.formats.label_maps import read_labels, write_label_png, write_label_tiff
from cellseg1_rt.formats.overlay import overlay_from_labels, write_overlay
from cellseg1_rt.formats.tables import write_cells_csv

__all__ = [
    "IMAGE_SUFFIXES",
    "Image",
    "overlay_from_labels",
    "read_annotation",
    "read_image",
    "read_labels",
    "write_cells_csv",
    "write_label_png",
    "write_label_tiff",
    "write_overlay",
]
