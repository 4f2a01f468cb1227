"""CellSeg1's inference, in order: one image, a model's scores and logits, labels out.

Nothing here is fast. Every step is a loop over prompts or masks that asks one rule at a time, so
that it can be read beside the method's text; ``rules`` holds the rules.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from reference.margins import WATCH, DecisionLog, evidence_of
from reference.records import Candidate, Cell, ReferenceResult, Settings
from reference.rules import RULES, Rules
from reference.rules_prompts import Box, Size

Predict = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def segment(
    image: np.ndarray, predict: Predict, *, rules: Rules = RULES, **thresholds: float
) -> ReferenceResult:
    """Labels of an image.

    Parameters
    ----------
    image : uint8 [H, W, 3], RGB.
    predict : (resized crop uint8 [h, w, 3], points float32 [N, 2] (x, y) in it) to
        (scores float32 [N], logits float32 [N, 4g, 4g]).
    thresholds : fields of `Settings`.

    Raises
    ------
    ValueError : on a score that is not finite, or a logit of a prompt whose score passes.
    """
    settings = Settings(**thresholds)
    log = DecisionLog()
    image_hw: Size = (image.shape[0], image.shape[1])
    crops = crop_boxes(image_hw, settings.crops, rules)

    found: list[Candidate] = []
    prompts_before = 0
    for layer, crop in crops:
        side = rules.grid_side(settings.points_per_side, layer)
        in_crop = candidates(image, crop, side, prompts_before, predict, settings, rules, log)
        found += nms_in_crop(in_crop, settings, rules, log)
        prompts_before += side**2
    if rules.runs_across_crops(len(crops)):
        found = nms_across_crops(found, settings, rules, log)
    found = clean_regions(found, image_hw, settings, rules, log)
    labels, painted = paint(found, image_hw, rules)
    log_painting(found, log, with_stability=len(crops) > 1)
    return ReferenceResult(labels, [cell_of(labels, n, found[i]) for n, i in painted], log)


def crop_boxes(image_hw: Size, crops: int, rules: Rules = RULES) -> list[tuple[int, Box]]:
    """Step 1: (layer, box) of every crop in order; image pixels, exclusive ends."""
    height, width = image_hw
    boxes = []
    for layer in rules.layers(crops):
        n = rules.crops_per_side(layer)
        overlap = rules.crop_overlap(height, width, n)
        crop_w = rules.crop_length(width, overlap, n)
        crop_h = rules.crop_length(height, overlap, n)
        for kx, ky in rules.crop_order(n):
            x0, x1 = rules.crop_span(kx, crop_w, overlap, width)
            y0, y1 = rules.crop_span(ky, crop_h, overlap, height)
            boxes.append((layer, (x0, y0, x1, y1)))
    return boxes


def candidates(
    image: np.ndarray,
    crop: Box,
    side: int,
    prompts_before: int,
    predict: Predict,
    settings: Settings,
    rules: Rules,
    log: DecisionLog,
) -> list[Candidate]:
    """Steps 2 and 3: the crop's prompts that pass every filter, in the order of the prompts."""
    x0, y0, x1, y1 = crop
    crop_hw = (y1 - y0, x1 - x0)
    input_hw = rules.input_size(*crop_hw, settings.image_size)
    resized = rules.resized_crop(image, crop, input_hw)
    points = [(x * crop_hw[1], y * crop_hw[0]) for x, y in rules.grid(side)]
    prompts = [rules.point_in_input(x, y, crop_hw, input_hw) for x, y in points]
    scores, logits = predict(resized, np.array(prompts, np.float32))
    if not np.isfinite(scores).all():
        raise ValueError("a score is not finite")

    passed = []
    for i, (x, y) in enumerate(points):
        score = np.float32(scores[i])
        passes_score = rules.passes_score(score, settings.score)
        if not passes_score and settings.score - score > WATCH:
            continue
        if not np.isfinite(logits[i]).all():
            raise ValueError("a logit is not finite")
        full = rules.crop_logits(logits[i], settings.image_size, input_hw, crop_hw)
        number = prompts_before + i
        log.evidence[number] = evidence_of(score, full, crop, settings.stability_offset)
        log.score(number, settings.score)
        if not passes_score:
            continue
        kept = filtered(full, crop, image.shape[:2], number, settings, rules, log)
        if kept is not None:
            stable, mask, box = kept
            passed.append(Candidate(number, score, stable, (x + x0, y + y0), mask, box))
    return passed


def filtered(
    logits: np.ndarray,
    crop: Box,
    image_hw: Size,
    number: int,
    settings: Settings,
    rules: Rules,
    log: DecisionLog,
) -> tuple[np.float32, np.ndarray, Box] | None:
    """Step 3 after the score: stability, mask and box in the image, or None where one filter drops.

    ``logits`` float32 [h, w] at the crop's size.
    """
    stable = rules.stability(logits, settings.stability_offset)
    log.stability(number, settings.stability)
    if not rules.passes_stability(stable, settings.stability):
        return None

    mask = rules.pixel_mask(logits)
    area = int(np.count_nonzero(mask))
    log.area(number, area, settings.max_area_ratio, image_hw)
    if not rules.passes_area(area, settings.max_area_ratio, image_hw, logits.shape):
        return None

    x0, y0, x1, y1 = crop
    left, top, right, bottom = rules.box_of_mask(mask)
    box = (left + x0, top + y0, right + x0, bottom + y0)
    if crop != (0, 0, image_hw[1], image_hw[0]):
        log.edge(number)
    if rules.touches_crop_edge(box, crop, image_hw):
        return None

    in_image = np.zeros(image_hw, bool)
    in_image[y0:y1, x0:x1] = mask
    return stable, in_image, box


def nms(
    prompts: list[int],
    boxes: list[Box],
    masks: list[np.ndarray],
    ranks: list[np.float32],
    threshold: float,
    rules: Rules,
    log: DecisionLog,
    with_stability: bool | None,
) -> list[int]:
    """Positions that are kept, best rank first: greedy, mask IoU of pairs whose boxes overlap.

    ``with_stability`` says to the log what the rank is made of: None where ranks are fixed flags.
    """
    kept: list[int] = []
    seen: list[int] = []
    for i in rules.rank_order(ranks):
        dropped = False
        for k in rules.suppressors(kept, seen):
            if not rules.boxes_overlap(boxes[k], boxes[i]):
                if boxes_meet(boxes[k], boxes[i]) and (masks[k] & masks[i]).any():
                    log.line_pair(prompts[k], prompts[i])
                continue
            iou = rules.mask_iou(masks[k], masks[i])
            union = int(np.count_nonzero(masks[k] | masks[i]))
            log.pair(prompts[k], prompts[i], float(iou), union, threshold, with_stability)
            if rules.suppresses(iou, threshold):
                dropped = True
                break
        seen.append(i)
        if not dropped:
            kept.append(i)
    return rules.list_after_nms(kept)


def boxes_meet(a: Box, b: Box) -> bool:
    """Whether boxes share a pixel, which is less than to "overlap"."""
    return a[0] <= b[2] and b[0] <= a[2] and a[1] <= b[3] and b[1] <= a[3]


def nms_in_crop(
    found: list[Candidate], settings: Settings, rules: Rules, log: DecisionLog
) -> list[Candidate]:
    """Step 4: from the order of the prompts to descending score."""
    return nms_of_candidates(found, rules.rank_in_crop, settings, rules, log, False)


def nms_across_crops(
    found: list[Candidate], settings: Settings, rules: Rules, log: DecisionLog
) -> list[Candidate]:
    """Step 5: from crop order, each best score first, to descending score × stability."""
    return nms_of_candidates(found, rules.rank_across_crops, settings, rules, log, True)


def nms_of_candidates(
    found: list[Candidate],
    rank: Callable[[np.float32, np.float32], np.float32],
    settings: Settings,
    rules: Rules,
    log: DecisionLog,
    with_stability: bool,
) -> list[Candidate]:
    """The NMS of steps 4 and 5, which differ in their rank only."""
    kept = nms(
        [c.prompt for c in found],
        [c.box for c in found],
        [c.mask for c in found],
        [rank(c.score, c.stability) for c in found],
        rules.threshold_of_crop_nms(settings.box_nms, settings.crop_nms),
        rules,
        log,
        with_stability,
    )
    return [found[i] for i in kept]


def clean_regions(
    found: list[Candidate], image_hw: Size, settings: Settings, rules: Rules, log: DecisionLog
) -> list[Candidate]:
    """Step 6: cleaned masks, one more NMS that puts unchanged masks first, and the area again."""
    cleaned = []
    changed = []
    for c in found:
        mask, has_changed = rules.clean(c.mask, settings.min_area)
        log.regions(c.prompt, c.mask, lambda m: rules.clean(m, settings.min_area)[0])
        cleaned.append(mask)
        changed.append(has_changed)
    originals = [c.mask for c in found]
    boxed = [rules.boxed_in_last_nms(o, m) for o, m in zip(originals, cleaned, strict=True)]
    compared = [rules.compared_in_last_nms(o, m) for o, m in zip(originals, cleaned, strict=True)]
    kept = nms(
        [c.prompt for c in found],
        [rules.box_of_mask(mask) for mask in boxed],
        compared,
        [rules.rank_after_cleaning(flag) for flag in changed],
        rules.threshold_of_last_nms(settings.box_nms, settings.crop_nms),
        rules,
        log,
        None,
    )
    passed = []
    for i in kept:
        area = int(np.count_nonzero(cleaned[i]))
        log.area(found[i].prompt, area, settings.max_area_ratio, image_hw)
        if rules.passes_last_area(area, settings.max_area_ratio, image_hw):
            passed.append(replace(found[i], mask=cleaned[i]))
    return passed


def paint(
    found: list[Candidate], image_hw: Size, rules: Rules
) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Step 7: labels int [H, W], and (label, position in ``found``) of what is still seen."""
    labels = np.zeros(image_hw, int)
    order = rules.paint_order([int(np.count_nonzero(c.mask)) for c in found])
    for number, i in enumerate(order, start=1):
        part = rules.painted_part(found[i].mask)
        labels[rules.erased_part(found[i].mask, part)] = 0
        labels[part] = number
    seen = [int(value) for value in np.unique(labels) if value]
    renumbered = rules.renumber(labels)
    return renumbered, [
        (int(renumbered[labels == number][0]), order[number - 1]) for number in seen
    ]


def log_painting(found: list[Candidate], log: DecisionLog, with_stability: bool) -> None:
    """The decisions of step 7: the part that is painted, and who is painted over whom."""
    for i, a in enumerate(found):
        log.regions(a.prompt, a.mask, RULES.painted_part)
        for b in found[i + 1 :]:
            if (a.mask & b.mask).any():
                areas = int(np.count_nonzero(a.mask)), int(np.count_nonzero(b.mask))
                log.paint(a.prompt, b.prompt, areas, with_stability)


def cell_of(labels: np.ndarray, label: int, candidate: Candidate) -> Cell:
    """A row of the table, measured on the label map."""
    pixels = labels == label
    ys, xs = np.nonzero(pixels)
    return Cell(
        label=label,
        prompt=candidate.prompt,
        score=candidate.score,
        stability=candidate.stability,
        point_xy=candidate.point_xy,
        mask=candidate.mask,
        area_px=len(ys),
        box_xyxy=(int(xs.min()), int(ys.min()), int(xs.max()), int(ys.max())),
        centroid_xy=(float(xs.mean()), float(ys.mean())),
    )
