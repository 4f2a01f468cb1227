from __future__ import annotations

import itertools

import numpy as np
import pytest

from cellseg1_rt.errors import ConfigError, InputError
from cellseg1_rt.evaluate import Counts, average_precision, match_cells, match_counts


def brute_force_counts(pred, true, threshold):
    """TP by trying every way to give each true cell a predicted one; also the best IoU sum."""
    pred_cells = [set(np.flatnonzero(pred == i)) for i in np.unique(pred) if i]
    true_cells = [set(np.flatnonzero(true == i)) for i in np.unique(true) if i]
    few, many = sorted((pred_cells, true_cells), key=len)
    best = (0, 0.0)
    for chosen in itertools.permutations(range(len(many)), len(few)):
        ious = [len(a & many[i]) / len(a | many[i]) for a, i in zip(few, chosen, strict=True)]
        good = [iou for iou in ious if iou >= threshold]
        best = max(best, (len(good), sum(good)))
    return best[0], len(pred_cells) - best[0], len(true_cells) - best[0], best[1]


def random_pair(seed):
    """Maps [7, 11] of up to five boxes, often nested and shifted, with gaps in the labels."""
    rng = np.random.default_rng(seed)
    maps = []
    boxes = rng.integers(0, 11, (5, 4))
    boxes[:, :2] //= 2
    for _ in range(2):
        labels = np.zeros((7, 11), np.int32)
        for label in rng.permutation(5)[: rng.integers(0, 6)]:
            y, x, dy, dx = boxes[label] + rng.integers(0, 2, 4)
            labels[y : y + dy % 5 + 2, x : x + dx % 5 + 2] = 3 * label + 2
        maps.append(labels)
    return maps


THRESHOLDS = (0.05, 0.1, 0.25, 1 / 3, 0.5, 0.75, 1.0)


@pytest.mark.parametrize("seed", range(80))
def test_random_pairs_against_every_assignment(seed):
    pred, true = random_pair(seed)
    for counts in match_counts(pred, true, THRESHOLDS):
        tp, fp, fn, iou_sum = brute_force_counts(pred, true, counts.threshold)
        assert counts == Counts(counts.threshold, tp, fp, fn)
        matches = match_cells(pred, true, counts.threshold)
        assert len(matches.iou) == tp
        assert matches.iou.sum() == pytest.approx(iou_sum)


def test_the_random_pairs_do_compete():
    """Without contested pairs the test above would not see the assignment at all."""
    contested = 0
    for seed in range(80):
        pred, true = random_pair(seed)
        shared = np.unique(np.stack([pred, true])[:, (pred > 0) & (true > 0)], axis=1)
        contested += any(len(np.unique(row)) < shared.shape[1] for row in shared)
    assert contested > 20


def chain():
    """Greedy by IoU takes p2-t1 and leaves one pair; the maximum matching has two."""
    pred, true = np.zeros((1, 41), int), np.zeros((1, 41), int)
    pred[0, 0:6], pred[0, 6:20] = 1, 2
    true[0, 0:16], true[0, 16:24] = 1, 2
    return pred, true


def test_matching_is_maximum_not_greedy():
    pred, true = chain()
    # IoU: p1-t1 6/16, p2-t1 10/20, p2-t2 4/18.
    assert match_counts(pred, true, (0.2,)) == (Counts(0.2, 2, 0, 0),)
    matches = match_cells(pred, true, 0.2)
    assert matches.pred_label.tolist() == [1, 2]
    assert matches.true_label.tolist() == [1, 2]
    np.testing.assert_allclose(matches.iou, [6 / 16, 4 / 18])


@pytest.mark.parametrize(
    ("threshold", "tp"), [(0.5, 1), (np.nextafter(0.5, 1), 0), (0.3, 1)], ids=str
)
def test_threshold_is_inclusive(threshold, tp):
    pred, true = np.zeros((3, 7), int), np.zeros((3, 7), int)
    pred[0, :3], true[0, 1:4] = 1, 1  # IoU 2/4
    assert match_counts(pred, true, (threshold,))[0].tp == tp


@pytest.mark.parametrize("tenths", range(1, 11))
def test_iou_of_tenths_meets_its_literal(tenths):
    pred, true = np.zeros((1, 11), int), np.zeros((1, 11), int)
    true[0, :10], pred[0, :tenths] = 1, 1
    assert average_precision(pred, true, tenths / 10) == 1.0


EMPTY = [
    ("both", 0, 0, 1.0),
    ("pred", 0, 3, 0.0),
    ("true", 3, 0, 0.0),
]


@pytest.mark.parametrize(
    ("pred", "true", "expected"), [case[1:] for case in EMPTY], ids=[case[0] for case in EMPTY]
)
def test_empty_maps(pred, true, expected):
    maps = [np.full((5, 7), value) for value in (pred, true)]
    assert average_precision(*maps) == expected
    counts = match_counts(*maps, (0.5,))[0]
    assert (counts.tp, counts.fp, counts.fn) == (0, int(pred > 0), int(true > 0))
    assert match_cells(*maps).iou.shape == (0,)


def test_ap_of_known_counts():
    true = np.repeat(np.arange(5), 7)[None]
    pred = np.where(true == 2, 0, true)
    pred[0, 7:11] = 0  # cell 1 keeps 3 of 7 pixels
    assert match_counts(pred, true, (0.4, 0.5)) == (Counts(0.4, 3, 0, 1), Counts(0.5, 2, 1, 2))
    assert average_precision(pred, true) == 2 / 5


@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", ">i4", "u4", "i8", "u8"])
def test_dtype_and_gaps_do_not_matter(dtype):
    pred, true = random_pair(11)
    expected = match_counts(pred, true, THRESHOLDS)
    assert match_counts(pred.astype(dtype), true.astype(dtype), THRESHOLDS) == expected
    top = np.iinfo(dtype).max
    spread = pred.astype(dtype)
    spread[pred == pred.max()] = top
    assert match_counts(spread, true, THRESHOLDS) == expected


def test_labels_of_matches_are_those_of_the_maps():
    true = np.zeros((13, 17), np.uint32)
    true[:5, :5], true[7:, 7:] = 9, 4_000_000_000
    pred = np.where(true == 9, 70, np.where(true > 9, 2, 0))
    matches = match_cells(pred, true)
    assert matches.pred_label.tolist() == [2, 70]
    assert matches.true_label.tolist() == [4_000_000_000, 9]
    assert matches.iou.tolist() == [1.0, 1.0]


def test_symmetric_and_perfect():
    pred, true = random_pair(23)
    a, b = match_counts(pred, true, (0.3,))[0], match_counts(true, pred, (0.3,))[0]
    assert (a.tp, a.fp, a.fn) == (b.tp, b.fn, b.fp)
    assert average_precision(true, true, 1.0) == 1.0


def test_a_group_of_many_competing_cells():
    rng = np.random.default_rng(1)
    pred, true = (np.repeat(rng.permutation(400) + 1, 10)[None] for _ in range(2))
    shifted = np.roll(true, 5)
    shifted[0, :5] = 0
    # Each shifted cell shares half with each of two predicted ones: IoU 5/15, one
    # long chain. The last lost its other half: IoU 5/10.
    counts = match_counts(pred, shifted, (1 / 3, 0.34))
    assert [(c.tp, c.fp) for c in counts] == [(400, 0), (1, 399)]


BAD_MAPS = [
    (
        "shapes",
        np.zeros((5, 7), int),
        np.zeros((7, 5), int),
        r"different shapes; got predicted \(5, 7\), true \(7, 5\)",
    ),
    (
        "float",
        np.zeros((5, 7)),
        np.zeros((5, 7), int),
        "predicted labels: not a label map; got dtype float64; expected integers",
    ),
    (
        "negative",
        np.zeros((5, 7), int),
        np.full((5, 7), -2),
        "true labels: a negative label; got -2; expected 0 or above",
    ),
]


@pytest.mark.parametrize(
    ("pred", "true", "message"), [case[1:] for case in BAD_MAPS], ids=[case[0] for case in BAD_MAPS]
)
def test_maps_that_cannot_be_compared(pred, true, message):
    for compare in (average_precision, match_cells):
        with pytest.raises(InputError, match=message):
            compare(pred, true)


@pytest.mark.parametrize("threshold", [0.0, -0.1, 1.01, float("nan")])
def test_thresholds_out_of_range(threshold):
    maps = np.zeros((5, 7), int)
    with pytest.raises(ConfigError, match=r"IoU threshold out of range; got .*expected above 0"):
        match_counts(maps, maps, (0.5, threshold))
    with pytest.raises(ConfigError, match="an IoU threshold out of range"):
        match_cells(maps, maps, threshold)
