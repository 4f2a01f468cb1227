"""The rules of "Inference, in order" as one table, each of them replaceable.

Each rule is a function that knows one clause and nothing of the order, which ``inference`` holds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

from reference import rules_masks, rules_prompts, rules_regions


@dataclass(frozen=True)
class Rules:
    """The rules in force, by name. ``replace(RULES, name=broken)`` breaks exactly one of them."""

    layers: Callable = rules_prompts.layers
    crops_per_side: Callable = rules_prompts.crops_per_side
    crop_overlap: Callable = rules_prompts.crop_overlap
    crop_length: Callable = rules_prompts.crop_length
    crop_span: Callable = rules_prompts.crop_span
    crop_order: Callable = rules_prompts.crop_order
    input_size: Callable = rules_prompts.input_size
    resized_crop: Callable = rules_prompts.resized_crop
    grid_side: Callable = rules_prompts.grid_side
    grid: Callable = rules_prompts.grid
    point_in_input: Callable = rules_prompts.point_in_input
    passes_score: Callable = rules_masks.passes_score
    crop_logits: Callable = rules_masks.crop_logits
    stability: Callable = rules_masks.stability
    passes_stability: Callable = rules_masks.passes_stability
    pixel_mask: Callable = rules_masks.pixel_mask
    passes_area: Callable = rules_masks.passes_area
    box_of_mask: Callable = rules_masks.box_of_mask
    touches_crop_edge: Callable = rules_masks.touches_crop_edge
    rank_in_crop: Callable = rules_masks.rank_in_crop
    rank_across_crops: Callable = rules_masks.rank_across_crops
    threshold_of_crop_nms: Callable = rules_masks.threshold_of_crop_nms
    runs_across_crops: Callable = rules_masks.runs_across_crops
    rank_order: Callable = rules_masks.rank_order
    boxes_overlap: Callable = rules_masks.boxes_overlap
    mask_iou: Callable = rules_masks.mask_iou
    suppresses: Callable = rules_masks.suppresses
    suppressors: Callable = rules_masks.suppressors
    list_after_nms: Callable = rules_masks.list_after_nms
    clean: Callable = rules_regions.clean
    rank_after_cleaning: Callable = rules_regions.rank_after_cleaning
    threshold_of_last_nms: Callable = rules_regions.threshold_of_last_nms
    boxed_in_last_nms: Callable = rules_regions.boxed_in_last_nms
    compared_in_last_nms: Callable = rules_regions.compared_in_last_nms
    passes_last_area: Callable = rules_regions.passes_last_area
    paint_order: Callable = rules_regions.paint_order
    painted_part: Callable = rules_regions.painted_part
    erased_part: Callable = rules_regions.erased_part
    renumber: Callable = rules_regions.renumber


RULES = Rules()
RULE_NAMES = frozenset(field.name for field in fields(Rules))
