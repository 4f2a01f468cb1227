"""How good a segmentation is: the published metric and what is built on it.

Compares label maps; runs no model. May import numpy and scipy.
"""

from cellseg1_rt.evaluate.metrics import (
    Counts,
    Matches,
    average_precision,
    match_cells,
    match_counts,
)

__all__ = ["Counts", "Matches", "average_precision", "match_cells", "match_counts"]
