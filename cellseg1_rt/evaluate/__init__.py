"""How good a segmentation is: the published metric and what is built on it.

Compares label maps; runs no model. May import numpy, scipy and ``cellseg1_rt.formats``; opencv and
pillow in the pictures of the report only, which is imported from ``cellseg1_rt.evaluate.report``.
"""

from cellseg1_rt.evaluate.figures import THRESHOLDS, Figures, figures_from_maps, pooled_figures
from cellseg1_rt.evaluate.folders import Evaluation, Failure, ImageResult, Pair, evaluate_folders
from cellseg1_rt.evaluate.metrics import (
    Counts,
    Matches,
    average_precision,
    match_cells,
    match_counts,
)
from cellseg1_rt.evaluate.mistakes import Mistakes, find_mistakes

__all__ = [
    "THRESHOLDS",
    "Counts",
    "Evaluation",
    "Failure",
    "Figures",
    "ImageResult",
    "Matches",
    "Mistakes",
    "Pair",
    "average_precision",
    "evaluate_folders",
    "figures_from_maps",
    "find_mistakes",
    "match_cells",
    "match_counts",
    "pooled_figures",
]
