"""Readers and writers: files on one side, plain arrays on the other.

It reads planes of images (PNG, JPEG, TIFF, BMP, NPY, NIfTI, OME-Zarr, ND2, CZI, LIF) as stored,
whole or window by window, label maps, and what annotation tools save; it measures cells and writes
label maps, outlines, tables and overlay pictures, whole or not at all. It does not normalise,
resize or rotate pixels, and picks no plane out of a stack that it was not asked for.

May import numpy, opencv, pillow, tifffile, roifile, scipy (connected pieces) and, each for its own
format only, nibabel, pyarrow, zarr and bioio. Libraries are imported when a file of their kind is
met, so that importing this package costs numpy and nothing else.
"""

from cellseg1_rt.formats.annotations import read_annotation
from cellseg1_rt.formats.images import IMAGE_SUFFIXES, Image, read_image
from cellseg1_rt.formats.label_maps import read_labels, write_label_png, write_label_tiff
from cellseg1_rt.formats.label_ome import write_label_ome_tiff
from cellseg1_rt.formats.label_zarr import write_label_zarr
from cellseg1_rt.formats.measurements import measure_cells
from cellseg1_rt.formats.outputs import OUTPUT_SUFFIXES, write_output
from cellseg1_rt.formats.overlay import overlay_from_labels, write_overlay
from cellseg1_rt.formats.parquet import JobTable, write_cells_parquet
from cellseg1_rt.formats.planes import ArrayPlane, PlaneAddress, PlaneSource
from cellseg1_rt.formats.qupath import write_detections
from cellseg1_rt.formats.roi_zip import write_roi_zip
from cellseg1_rt.formats.stacks import list_planes, open_plane
from cellseg1_rt.formats.tables import table_from_cells, write_cells_csv, write_table_csv

__all__ = [
    "IMAGE_SUFFIXES",
    "OUTPUT_SUFFIXES",
    "ArrayPlane",
    "Image",
    "JobTable",
    "PlaneAddress",
    "PlaneSource",
    "list_planes",
    "measure_cells",
    "open_plane",
    "overlay_from_labels",
    "read_annotation",
    "read_image",
    "read_labels",
    "table_from_cells",
    "write_cells_csv",
    "write_cells_parquet",
    "write_detections",
    "write_label_ome_tiff",
    "write_label_png",
    "write_label_tiff",
    "write_label_zarr",
    "write_output",
    "write_overlay",
    "write_roi_zip",
    "write_table_csv",
]
