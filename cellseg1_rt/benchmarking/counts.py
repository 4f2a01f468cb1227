"""Products of the three graphs, plain and rewritten, from a backbone's shape; nothing is run.

Letters: S is the image's side in px, g = S/16 the grid's, T = g² its positions, C = 256 the
decoder's channels, R = 7 its tokens (score, four masks, point, padding), H = 8 its heads. What a
product's FLOPs and bytes are is ``products``. Imports the standard library only.
"""

from __future__ import annotations

from dataclasses import replace

from cellseg1_rt.backbone import PATCH_SIZE, Backbone
from cellseg1_rt.benchmarking.products import Product, by_head, linear, pairs

__all__ = ["decoder", "decoder_plain", "encoder", "encoder_plain", "head", "head_plain"]

CHANNELS, TOKENS, HEADS, MLP = 256, 7, 8, 2048
CROSS = CHANNELS // 2
"""Width of the attentions between tokens and image, SAM's ``attention_downsample_rate`` of 2."""
HYPER = 32
"""Channels of the upscaled embedding, which a mask's hypernetwork weighs."""


def encoder_plain(backbone: Backbone, image_size: int) -> list[Product]:
    """SAM's ``ImageEncoderViT`` on one image.

    With d channels, windows of w tokens a side pad the grid to ⌈g/w⌉·w; P is that side squared,
    T ≤ P. A block takes 2·P·d·3d for qkv, 2·P·d² for proj, 2·2·P·w²·d for the two products of the
    attention, 2·2·P·w·d for rel-pos along both axes, and 2·2·T·d·4d for the MLP. A global block is
    one window of w = g, so P = T. Patches take 2·T·(3·16²)·d, the neck 2·T·d·C + 2·T·9C·C.
    """
    return _encoder(backbone, image_size, rewritten=False)


def encoder(backbone: Backbone, image_size: int, lora_rank: int | None = None) -> list[Product]:
    """The same function as ``model/encoding.py`` computes it.

    qkv and proj see the T tokens only, not the P padded ones. Rel-pos rides in the attention's
    first product, whose inner width grows from c = d/heads to c + 2w: 2·P·w²·heads·(c + 2w).
    With a LoRA of rank r as inputs, each block maps its tokens to the rows of A of q and of v, and
    those to qkv: 2·T·d·2r + 2·T·2r·3d.
    """
    products = _encoder(backbone, image_size, rewritten=True)
    if lora_rank is not None:
        tokens, width = _positions(image_size), backbone.embed_dim
        down = linear("pairs A", tokens, width, 2 * lora_rank)
        up = linear("pairs B", tokens, 2 * lora_rank, 3 * width)
        products += [down, up] * backbone.depth
    return products


def _encoder(backbone: Backbone, image_size: int, *, rewritten: bool) -> list[Product]:
    grid, width = image_size // PATCH_SIZE, backbone.embed_dim
    positions = grid * grid
    products = [linear("patches", positions, 3 * PATCH_SIZE**2, width)]
    for index in range(backbone.depth):
        of_all = index in backbone.global_attn_indexes
        side = grid if of_all else backbone.window_size
        products += _block(backbone, grid, side, rewritten=rewritten)
    products.append(linear("neck 1×1", positions, width, CHANNELS))
    products.append(
        Product(  # a 3×3 convolution reads each input once, not nine times
            "neck 3×3",
            2 * positions * 9 * CHANNELS * CHANNELS,
            2 * positions * CHANNELS + 9 * CHANNELS * CHANNELS,
        )
    )
    return products


def _block(backbone: Backbone, grid: int, side: int, *, rewritten: bool) -> list[Product]:
    width, heads = backbone.embed_dim, backbone.num_heads
    windows, of_head = (-(-grid // side)) ** 2, width // heads
    tokens, in_window = grid * grid, side * side
    padded = windows * in_window
    projected = tokens if rewritten else padded
    inner = of_head + 2 * side if rewritten else of_head
    return [
        linear("qkv", projected, width, 3 * width),
        linear("rel-pos rows", padded * heads, of_head, side, right=side),
        linear("rel-pos columns", padded * heads, of_head, side, right=side),
        pairs("q·k", windows * heads, in_window, inner, in_window),
        pairs("weights·v", windows * heads, in_window, in_window, of_head),
        linear("proj", projected, width, width),
        linear("mlp in", tokens, width, 4 * width),
        linear("mlp out", tokens, 4 * width, width),
    ]


def decoder_plain(image_size: int, prompts: int) -> list[Product]:
    """SAM's prompt encoder and two-way transformer, and all it makes of its tokens, for one call.

    A prompt projects the T positions for itself: 2·T·C·128 for each of k and v towards the tokens
    (twice, and once more in the final attention), for q towards the image and for the way back out
    of it (twice): 10 of those, 67 MFLOP each at T = 1,024, are most of a prompt. SAM's
    ``MaskDecoder`` computes four hypernetworks whether one mask is asked for or all.
    """
    positions = _positions(image_size)
    products = [
        _table("dense encoding", positions, 2),
        linear("point encoding", 2 * prompts, 2, CROSS),
    ]
    for _ in range(2):
        products += _self_attention(prompts)
        products += _plain_to_tokens(prompts, TOKENS, positions)
        products += _mlp(prompts)
        products += _plain_to_image(prompts, positions)
    products += _plain_to_tokens(prompts, TOKENS, positions)
    return products + _outputs(prompts, hypernetworks=4)


def decoder(image_size: int, prompts: int) -> list[Product]:
    """The same function as ``model/decoding.py`` computes it, for one call.

    Layer 1 projects the image's positions once a call instead of once a prompt. Layer 2 and the
    final attention never project the positions of a prompt: R·H rows of C channels meet them as
    they are, 2·56·T·C for each of five products (2·16·T·C for the last two, which need only the
    tokens of score and mask 0), 29 MFLOP each at T = 1,024. Tables of the positional encoding
    depend on weights only.
    """
    positions = _positions(image_size)
    products = [
        _table("dense encoding", positions, 2),
        linear("point encoding", prompts, 2, CROSS),
        *(linear(f"shared {name}", positions, CHANNELS, CROSS) for name in ("k", "v", "q")),
        *_self_attention(prompts),
        *_shared_to_tokens(prompts, positions),
        *_mlp(prompts),
        *_shared_to_image(prompts, positions),
        *_self_attention(prompts),
        *_absorbed_to_tokens(prompts, TOKENS, positions),
        *_mlp(prompts),
        *_absorbed_to_image(prompts, positions),
        *_absorbed_to_tokens(prompts, 2, positions),
    ]
    return products + _outputs(prompts, hypernetworks=1)


def head_plain(image_size: int, prompts: int) -> list[Product]:
    """SAM's upscaling and its four masks for every prompt.

    Two transposed convolutions, 2·T·256·(4·64) and 2·4T·64·(4·32), then 2·4·32·16T.
    """
    return _head(image_size, prompts, masks=4)


def head(image_size: int, survivors: int) -> list[Product]:
    """Upscaling of the survivors, as ``head_plain``, and mask 0 of each, 2·32·16T."""
    return _head(image_size, survivors, masks=1)


def _head(image_size: int, prompts: int, *, masks: int) -> list[Product]:
    positions = _positions(image_size)
    return [
        linear("upscaling 1", prompts * positions, CHANNELS, 4 * 64),
        linear("upscaling 2", prompts * 4 * positions, 64, 4 * HYPER),
        pairs("masks", prompts, masks, HYPER, 16 * positions),
    ]


def _positions(image_size: int) -> int:
    return (image_size // PATCH_SIZE) ** 2


def _table(name: str, positions: int, k: int) -> Product:
    """What weights and positions give: folded when a runtime loads the graph."""
    return replace(linear(name, positions, k, CROSS), constant=True)


def _self_attention(prompts: int) -> list[Product]:
    rows, of_head = prompts * TOKENS, CHANNELS // HEADS
    return [
        *(linear(f"self {name}", rows, CHANNELS, CHANNELS) for name in ("q", "k", "v", "out")),
        pairs("self q·k", prompts * HEADS, TOKENS, of_head, TOKENS),
        pairs("self weights·v", prompts * HEADS, TOKENS, TOKENS, of_head),
    ]


def _mlp(prompts: int) -> list[Product]:
    rows = prompts * TOKENS
    return [linear("mlp in", rows, CHANNELS, MLP), linear("mlp out", rows, MLP, CHANNELS)]


def _plain_to_tokens(prompts: int, tokens: int, positions: int) -> list[Product]:
    return [
        linear("to tokens q", prompts * tokens, CHANNELS, CROSS),
        linear("to tokens k", prompts * positions, CHANNELS, CROSS),
        linear("to tokens v", prompts * positions, CHANNELS, CROSS),
        pairs("to tokens q·k", prompts * HEADS, tokens, CROSS // HEADS, positions),
        pairs("to tokens weights·v", prompts * HEADS, tokens, positions, CROSS // HEADS),
        linear("to tokens out", prompts * tokens, CROSS, CHANNELS),
    ]


def _plain_to_image(prompts: int, positions: int) -> list[Product]:
    return [
        linear("to image q", prompts * positions, CHANNELS, CROSS),
        linear("to image k", prompts * TOKENS, CHANNELS, CROSS),
        linear("to image v", prompts * TOKENS, CHANNELS, CROSS),
        pairs("to image q·k", prompts * HEADS, positions, CROSS // HEADS, TOKENS),
        pairs("to image weights·v", prompts * HEADS, positions, TOKENS, CROSS // HEADS),
        linear("to image out", prompts * positions, CROSS, CHANNELS),
    ]


def _shared_to_tokens(prompts: int, positions: int) -> list[Product]:
    rows = prompts * TOKENS
    back = 2 * rows * CROSS * positions
    return [
        linear("to tokens q", rows, CHANNELS, CROSS),
        by_head("to tokens q·k", rows, CROSS, positions),
        Product("to tokens weights·v", back, HEADS * rows * positions + CROSS * positions),
        linear("to tokens out", rows, CROSS, CHANNELS),
    ]


def _shared_to_image(prompts: int, positions: int) -> list[Product]:
    rows = prompts * TOKENS
    return [
        linear("to image k", rows, CHANNELS, CROSS),
        by_head("to image q·k", rows, CROSS, positions),
        *_spread(prompts, positions),
    ]


def _absorbed_to_tokens(prompts: int, tokens: int, positions: int) -> list[Product]:
    rows = prompts * tokens
    return [
        linear("to tokens q", rows, CHANNELS, CROSS),
        linear("to tokens q·Wk", rows, CROSS, CHANNELS),
        pairs("to tokens rows·keys", prompts, HEADS * tokens, CHANNELS, positions),
        _table("position table", positions, CHANNELS),
        by_head("to tokens q·table", rows, CROSS, positions),
        pairs("to tokens weights·keys", prompts, HEADS * tokens, positions, CHANNELS),
        linear("to tokens values", rows, CHANNELS, CROSS),
        linear("to tokens out", rows, CROSS, CHANNELS),
    ]


def _absorbed_to_image(prompts: int, positions: int) -> list[Product]:
    rows = prompts * TOKENS
    return [
        linear("to image k", rows, CHANNELS, CROSS),
        linear("to image Wq·k", rows, CROSS, CHANNELS),
        pairs("to image rows·keys", prompts, HEADS * TOKENS, CHANNELS, positions),
        _table("position table", positions, CHANNELS),
        by_head("to image table·k", rows, CROSS, positions),
        *_spread(prompts, positions),
    ]


def _spread(prompts: int, positions: int) -> list[Product]:
    rows = prompts * TOKENS
    return [
        linear("to image v", rows, CHANNELS, CROSS),
        linear("to image v·Wo", rows, CROSS, CHANNELS),
        pairs("to image weights·values", prompts, positions, HEADS * TOKENS, CHANNELS),
    ]


def _outputs(prompts: int, *, hypernetworks: int) -> list[Product]:
    products = [
        linear("score 1", prompts, CHANNELS, CHANNELS),
        linear("score 2", prompts, CHANNELS, CHANNELS),
        linear("score 3", prompts, CHANNELS, 4),
    ]
    for _ in range(hypernetworks):
        products += [
            linear("hyper 1", prompts, CHANNELS, CHANNELS),
            linear("hyper 2", prompts, CHANNELS, CHANNELS),
            linear("hyper 3", prompts, CHANNELS, HYPER),
        ]
    return products
