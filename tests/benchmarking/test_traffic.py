"""Bytes of the stages that run no graph, by hand."""

from __future__ import annotations

from cellseg1_rt.benchmarking.traffic import Asked, bytes_of_plain_masks, bytes_of_stages


def test_each_array_counts_as_often_as_it_has_to_move():
    asked = Asked(
        file_bytes=2,
        pixel_bytes=3,
        rgb_bytes=5,
        input_bytes=7,
        logit_bytes=11,
        packed_bytes=13,
        label_bytes=17,
        written_bytes=19,
    )
    assert bytes_of_stages(asked) == {
        "read": 2 + 3,
        "prepare": 3 + 5 + 5 + 7,
        "candidates": 11 + 13,
        "nms": 13,
        "clean+paint": 13 + 17 + 17,
        "write": 17 + 19,
    }


def test_plain_masks_move_at_full_size():
    """One prompt of a 32-px model on a crop of 7 px: 64 logits, 1,024 numbers twice, 7."""
    dropped = 4 * (64 + 1024 + 1024 + 7)
    assert bytes_of_plain_masks(1, 0, 32, 7) == dropped
    assert bytes_of_plain_masks(3, 1, 32, 7) == 3 * dropped + 4 * 7 * 5 + 7
