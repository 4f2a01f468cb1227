"""Polygons and ovals filled pixel by pixel in exact fractions: what the fast way must equal."""

from __future__ import annotations

from fractions import Fraction

import numpy as np


def plain_polygon(rings, shape):
    """bool [H, W]: whether an odd number of edges lies strictly to the left of a pixel's centre."""
    edges = []
    for ring in rings:
        points = [(Fraction(float(x)), Fraction(float(y))) for x, y in ring]
        edges += [(points[i - 1], points[i]) for i in range(len(points))]
    mask = np.zeros(shape, bool)
    for row in range(shape[0]):
        y = row + Fraction(1, 2)
        crossings = []
        for (x0, y0), (x1, y1) in edges:
            if min(y0, y1) <= y < max(y0, y1):
                crossings.append(2 * (x0 + (y - y0) / (y1 - y0) * (x1 - x0)))
        for column in range(shape[1]):
            mask[row, column] = sum(each < 2 * column + 1 for each in crossings) % 2 == 1
    return mask


def plain_oval(left, top, width, height, shape):
    """bool [H, W]: whether a pixel's centre lies in the ellipse or on it. Box in 1/64 px."""
    box = [64 * v for v in (left, top, width, height)]
    left, top, width, height = map(int, box)
    assert [left, top, width, height] == box, "not a multiple of 1/64 px"
    mask = np.zeros(shape, bool)
    for row in range(shape[0]):
        for column in range(shape[1]):
            dx = 128 * column + 64 - 2 * left - width
            dy = 128 * row + 64 - 2 * top - height
            inside = (dx * height) ** 2 + (dy * width) ** 2 <= (width * height) ** 2
            mask[row, column] = inside
    return mask
