from __future__ import annotations

import math

import numpy as np
import pytest

from cellseg1_rt.errors import InputError
from cellseg1_rt.runtime.normalise import rgb_from_pixels, stats_from_pixels

HEIGHT, WIDTH = 23, 31


def naive_stretch(values):
    """Min-max one value at a time; int() truncates."""
    numbers = [float(value) for value in values]
    low, high = min(numbers), max(numbers)
    if low == high:
        return [int(min(max(number, 0.0), 255.0)) for number in numbers]
    return [int((number - low) / (high - low) * 255) for number in numbers]


def naive_rgb(pixels):
    """The rules once more, from lists of numbers, for [H, W] and [H, W, 1 to 4]."""
    height, width = pixels.shape[:2]
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        grey = naive_stretch(pixels.ravel().tolist())
        planes = [grey] * 3
    else:
        channels = [pixels[..., c].ravel().tolist() for c in range(min(3, pixels.shape[2]))]
        channels += [[0] * (height * width)] * (3 - len(channels))
        used = [c for c in range(3) if any(channels[c])]
        if len(used) == 3:
            together = naive_stretch(channels[0] + channels[1] + channels[2])
            n = height * width
            planes = [together[:n], together[n : 2 * n], together[2 * n :]]
        elif len(used) == 1 or channels[used[0]] == channels[used[1]]:
            planes = [naive_stretch(channels[used[0]])] * 3
        else:
            planes = [naive_stretch(c) if i in used else c for i, c in enumerate(channels)]
    return np.array(planes, np.uint8).T.reshape(height, width, 3)


def random_pixels(dtype, channels, seed=0):
    rng = np.random.default_rng(seed)
    shape = (HEIGHT, WIDTH, *channels)
    kind = np.dtype(dtype)
    if kind.kind == "b":
        return rng.random(shape) > 0.5
    if kind.kind == "f":
        return (rng.normal(size=shape) * 1000).astype(kind)
    low, high = {"u1": (5, 201), "i1": (-100, 77)}.get(f"{kind.kind}{kind.itemsize}", (11, 30_011))
    return rng.integers(low, high, shape).astype(kind)


def one_zero(channel):
    pixels = random_pixels("u2", (3,))
    pixels[..., channel] = 0
    return pixels


def only(channel):
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint16)
    pixels[..., channel] = random_pixels("u2", ())
    return pixels


def twins(first, second):
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[..., first] = pixels[..., second] = random_pixels("u1", ())
    return pixels


def constants(*values, dtype="u2"):
    return np.broadcast_to(np.array(values, dtype), (HEIGHT, WIDTH, len(values)))


CASES = {
    **{
        f"{dtype}x{channels[0] if channels else 'grey'}": random_pixels(dtype, channels)
        for dtype in ("?", "u1", "i1", "<u2", ">u2", "i2", "u4", "i8", "u8", "f2", "f4", ">f8", "g")
        for channels in ((), (1,), (2,), (3,), (4,))
    },
    **{f"zero_{c}": one_zero(c) for c in range(3)},
    **{f"only_{c}": only(c) for c in range(3)},
    **{f"twins_{a}{b}": twins(a, b) for a, b in ((0, 1), (0, 2), (1, 2))},
    "two_channel_twins": twins(0, 1)[..., :2],
    "two_channels_one_used": only(1)[..., :2],
    "three_identical": np.repeat(random_pixels("u1", (1,)), 3, axis=2),
    "constant_grey": constants(1000)[..., 0],
    "constant_small": constants(77),
    "constant_negative": constants(-3.5, dtype="f4"),
    "constant_fraction": constants(3.9, dtype="f4"),
    "constant_colour": constants(1, 2, 3),
    "constant_same_colour": constants(999, 999, 999),
    "constant_two": constants(7, 300),
    "constant_and_zero": constants(0, 40, 0),
    "bool_all_set": np.ones((HEIGHT, WIDTH), bool),
    "one_pixel": np.array([[9]], np.uint8),
    "negative_and_zero": -random_pixels("u1", ()).astype(np.int16),
    "large_int64": random_pixels("i8", ()) + 2**53,
    "large_uint64": random_pixels("u8", ()) + np.uint64(2**63),
    "alpha_is_not_measured": np.dstack(
        [random_pixels("u2", (3,)) // 9, np.full((HEIGHT, WIDTH), 65535, np.uint16)]
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_rules_one_value_at_a_time(name):
    pixels = CASES[name]
    found = rgb_from_pixels(pixels)
    np.testing.assert_array_equal(found, naive_rgb(pixels), strict=True)


def test_known_grey_levels():
    pixels = np.array([[100, 150, 199, 200]], np.uint16)
    # 50/100*255 = 127.5 and 99/100*255 = 252.45, both truncated.
    assert rgb_from_pixels(pixels)[0, :, 1].tolist() == [0, 127, 252, 255]


def test_two_channels_are_red_and_green_each_on_its_own():
    pixels = np.array([[[0, 10], [2, 20]]], np.uint8)
    assert rgb_from_pixels(pixels).tolist() == [[[0, 0, 0], [255, 255, 0]]]


def test_three_channels_are_stretched_together():
    pixels = np.array([[[0, 10, 100], [50, 20, 90]]], np.uint8)
    assert rgb_from_pixels(pixels).tolist() == [[[0, 25, 255], [127, 51, 229]]]


def test_whole_range_of_float64_does_not_overflow():
    limit = np.finfo(np.float64).max
    assert rgb_from_pixels(np.array([[-limit, 0, limit]]))[0, :, 0].tolist() == [0, 127, 255]


LAYOUTS = {
    "fortran": np.asfortranarray,
    "transposed_view": lambda p: np.ascontiguousarray(p.swapaxes(0, 1)).swapaxes(0, 1),
    "strided": lambda p: np.repeat(np.repeat(p, 2, axis=0), 3, axis=1)[::2, ::3],
    "reversed": lambda p: np.ascontiguousarray(p[::-1, ::-1])[::-1, ::-1],
    "planar": lambda p: np.moveaxis(np.ascontiguousarray(np.moveaxis(p, 2, 0)), 0, 2),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_layout_does_not_matter_and_input_is_kept(layout):
    pixels = random_pixels("u2", (3,))
    view = LAYOUTS[layout](pixels)
    view.flags.writeable = False

    found = rgb_from_pixels(view)

    np.testing.assert_array_equal(found, rgb_from_pixels(pixels))
    np.testing.assert_array_equal(view, pixels)
    assert found.flags.writeable
    assert found.flags.c_contiguous
    assert not np.shares_memory(found, view)


def test_uint8_that_needs_no_stretch_is_still_a_copy():
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    found = rgb_from_pixels(pixels)
    np.testing.assert_array_equal(found, np.repeat(pixels[..., None], 3, axis=2))
    assert not np.shares_memory(found, pixels)


@pytest.mark.parametrize("name", CASES)
def test_blocks_of_a_plane_give_the_plane(name):
    pixels = CASES[name]
    blocks = [
        (slice(y, y + 7), slice(x, x + 11)) for y in range(0, 23, 7) for x in range(0, 31, 11)
    ]
    blocks = [block for block in blocks if pixels[block].size]
    stats = stats_from_pixels(pixels[blocks[0]])
    for block in blocks[1:]:
        stats = stats.merged(stats_from_pixels(pixels[block]))

    whole = rgb_from_pixels(pixels)

    for block in blocks:
        found = rgb_from_pixels(pixels[block], stats=stats)
        np.testing.assert_array_equal(found, whole[block])


def test_twins_that_part_in_one_block_are_not_twins():
    same, parted = twins(0, 1)[:7], twins(0, 1)[7:]
    parted[3, 5, 1] ^= 1
    stats = stats_from_pixels(same).merged(stats_from_pixels(parted))
    whole = np.concatenate([same, parted])
    np.testing.assert_array_equal(rgb_from_pixels(same, stats=stats), rgb_from_pixels(whole)[:7])


def test_statistics_of_another_image():
    with pytest.raises(InputError, match="got 1 channels; expected 3 channels"):
        rgb_from_pixels(np.ones((5, 7, 3)), stats=stats_from_pixels(np.ones((5, 7))))


def with_holes(value):
    pixels = np.ones((5, 7, 3), np.float32)
    pixels[2, 4, 1] = pixels[3, 0, 0] = value
    return pixels


BAD = [
    (
        "nan",
        with_holes(math.nan),
        r"got 2 of them, the first \(nan\) at row 2, column 4, channel 1",
    ),
    (
        "inf",
        with_holes(-math.inf),
        r"the first \(-inf\) at row 2, column 4, channel 1; expected fin",
    ),
    ("nan_grey", with_holes(math.nan)[..., 1], "got 1 of them.*row 2, column 4, channel 0"),
    ("no_rows", np.zeros((0, 7)), r"an image without pixels; got an array of shape \(0, 7\)"),
    ("no_columns", np.zeros((5, 0, 3)), "an image without pixels"),
    (
        "zero_grey",
        np.zeros((5, 7), np.uint16),
        r"an all-zero image; got only zeros in shape \(5, 7\)",
    ),
    ("zero_rgb", np.zeros((5, 7, 3)), "an all-zero image"),
    ("zero_but_alpha", np.zeros((5, 7, 4)) + np.eye(4)[3], "an all-zero image"),
    ("zero_bool", np.zeros((5, 7), bool), "an all-zero image"),
    ("line", np.ones(7), r"not an image; got an array of shape \(7,\); expected \[H, W\] or"),
    ("five_channels", np.ones((5, 7, 5)), r"not an image; got an array of shape \(5, 7, 5\)"),
    ("no_channels", np.ones((5, 7, 0)), "not an image"),
    ("volume", np.ones((2, 5, 7, 3)), "not an image"),
    ("complex", np.ones((5, 7), complex), "not real numbers; got dtype complex128"),
    ("object", np.ones((5, 7), object), "not real numbers; got dtype object"),
]


@pytest.mark.parametrize(
    ("pixels", "message"), [case[1:] for case in BAD], ids=[case[0] for case in BAD]
)
def test_bad_images_are_one_line(pixels, message):
    with pytest.raises(InputError, match=message) as caught:
        rgb_from_pixels(pixels, where="plate.tif")
    assert str(caught.value).startswith("plate.tif: ")
    assert "\n" not in str(caught.value)


def test_non_finite_values_in_alpha_are_dropped_with_it():
    pixels = np.dstack([random_pixels("f4", (3,)), np.full((HEIGHT, WIDTH), math.nan)])
    np.testing.assert_array_equal(rgb_from_pixels(pixels), rgb_from_pixels(pixels[..., :3]))


def test_positions_in_a_block_are_those_of_the_plane():
    with pytest.raises(InputError, match="row 102, column 1004, channel 1"):
        stats_from_pixels(with_holes(math.nan), origin=(100, 1000))
