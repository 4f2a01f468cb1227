"""A PROJECTION, not a measurement: milliseconds an image on NVIDIA cards, from public figures.

    python benchmarks/roofline.py [--prompts 1024] [--surviving 0.333] [--prompt-batch 256]

The same products that `cellseg1-rt benchmark` counts (`cellseg1_rt/benchmarking/counts.py`), in
fp16, each taking the longer of two times: its FLOPs at a share of the card's peak, or its bytes at
a share of its bandwidth. Post-processing moves the survivors' logits once and the labels twice.
What is left out makes a card slower than this: launches, passes that are not fused, transfers,
clocks below boost. Nothing here has been timed on any of these cards.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated

import typer

from cellseg1_rt.backbone import Backbone
from cellseg1_rt.benchmarking import counts
from cellseg1_rt.benchmarking.products import Product
from cellseg1_rt.recipes import read_recipe

IMAGE_PX = 512
FP16, FP32 = 2, 4
COMPUTE_SHARE, MEMORY_SHARE = 0.5, 0.7
"""Assumed: half of the peak in matrix products, 0.7 of the bandwidth."""

TURING = "NVIDIA Turing GPU Architecture, whitepaper WP-09183-001"
AMPERE = "NVIDIA Ampere GA102 GPU Architecture, whitepaper V2.0"
ADA = "NVIDIA Ada GPU Architecture, whitepaper V2"
ADA_PROFESSIONAL = "NVIDIA Ada Lovelace Professional GPU Architecture, whitepaper V1"
BLACKWELL = "NVIDIA RTX Blackwell GPU Architecture, whitepaper"
PRODUCT = "NVIDIA product page (cores, boost clock, bandwidth)"


@dataclass(frozen=True)
class Card:
    """A card's public figures.

    Attributes
    ----------
    sms, boost_ghz : multiprocessors and boost clock of the reference card.
    per_clock : FLOP a clock of one multiprocessor in fp16 with fp32 sums, dense. 512 on GeForce
        since Turing, twice that on workstation Ada, 4,096 on H100.
    gbyte_per_s : memory bandwidth.
    published_tflops : the peak that the source prints, where it prints one.
    source : where the figures are from.
    """

    name: str
    sms: int
    boost_ghz: float
    per_clock: int
    gbyte_per_s: float
    published_tflops: float | None
    source: str

    @property
    def tflops(self) -> float:
        """Peak of fp16 with fp32 sums, dense, in 10¹² FLOP/s."""
        return self.sms * self.boost_ghz * self.per_clock / 1e3


CARDS = (
    Card("RTX 2060", 30, 1.680, 512, 336, None, PRODUCT),
    Card("RTX 2070", 36, 1.620, 512, 448, 29.9, TURING),
    Card("RTX 2080 Ti", 68, 1.545, 512, 616, 53.8, TURING),
    Card("RTX 3060", 28, 1.777, 512, 360, None, PRODUCT),
    Card("RTX 3070", 46, 1.725, 512, 448, 40.6, AMPERE),
    Card("RTX 3080", 68, 1.710, 512, 760, 59.5, AMPERE),
    Card("RTX 3090", 82, 1.695, 512, 936, 71.0, AMPERE),
    Card("RTX 4060", 24, 2.460, 512, 272, None, PRODUCT),
    Card("RTX 4070", 46, 2.475, 512, 504, None, PRODUCT),
    Card("RTX 4080", 76, 2.505, 512, 716.8, 97.5, ADA),
    Card("RTX 4090", 128, 2.520, 512, 1008, 165.2, ADA),
    Card("RTX 5070", 48, 2.512, 512, 672, 61.7, BLACKWELL),
    Card("RTX 5080", 84, 2.617, 512, 960, 112.6, BLACKWELL),
    Card("RTX 5090", 170, 2.407, 512, 1792, 209.5, BLACKWELL),
    Card("RTX 6000 Ada", 142, 2.505, 1024, 960, 364.2, ADA_PROFESSIONAL),
    Card(
        "H100 SXM", 132, 1.830, 4096, 3350, 989.4,
        "NVIDIA H100 Tensor Core GPU Architecture, whitepaper V1; datasheet",
    ),
)  # fmt: skip

BACKBONES = ("vit_h", "vit_b", "tiny")


@dataclass(frozen=True)
class Projected:
    """Milliseconds an image, by part."""

    encode_ms: float
    decode_ms: float
    head_ms: float
    masks_ms: float

    @property
    def total_ms(self) -> float:
        return self.encode_ms + self.decode_ms + self.head_ms + self.masks_ms


def project(
    card: Card, backbone: Backbone, prompts: int, surviving: float, prompt_batch: int
) -> Projected:
    """One image of 512 × 512 px, whole, on a card."""
    sizes = [min(prompt_batch, prompts - first) for first in range(0, prompts, prompt_batch)]
    survivors = round(prompts * surviving)
    decoded = [product for size in sizes for product in counts.decoder(IMAGE_PX, size)]
    moved = survivors * (IMAGE_PX // 4) ** 2 * FP32 + 2 * IMAGE_PX**2 * 2
    return Projected(
        encode_ms=milliseconds(card, counts.encoder(backbone, IMAGE_PX)),
        decode_ms=milliseconds(card, decoded),
        head_ms=milliseconds(card, counts.head(IMAGE_PX, survivors)),
        masks_ms=moved / (card.gbyte_per_s * MEMORY_SHARE) / 1e6,
    )


def milliseconds(card: Card, products: Iterable[Product]) -> float:
    """Time of products one after another, each at the limit that it meets first."""
    flop_per_ms = card.tflops * COMPUTE_SHARE * 1e9
    bytes_per_ms = card.gbyte_per_s * MEMORY_SHARE * 1e6
    return sum(
        max(product.flop / flop_per_ms, product.elements * FP16 / bytes_per_ms)
        for product in products
        if not product.constant
    )


def lines(prompts: int, surviving: float, prompt_batch: int) -> Iterator[str]:
    """A markdown table for each backbone, and where the cards' figures are from."""
    yield "**Projection from public figures, not a measurement.** One 512 × 512 image, fp16 with"
    yield (
        f"fp32 sums; {prompts} prompts, {prompt_batch} a call, {surviving:.2f} of them surviving; "
        f"assumed: {COMPUTE_SHARE:.0%} of the peak, {MEMORY_SHARE:.0%} of the bandwidth."
    )
    for name in BACKBONES:
        backbone = Backbone.from_dict(read_recipe("export", name)["backbone"])
        yield f"\n{name}\n"
        yield "| card | TFLOP/s | GB/s | encode ms | decode ms | head ms | masks ms | sum ms |"
        yield "|---|---|---|---|---|---|---|---|"
        for card in CARDS:
            part = project(card, backbone, prompts, surviving, prompt_batch)
            yield (
                f"| {card.name} | {card.tflops:.1f} | {card.gbyte_per_s:.0f} | "
                f"{part.encode_ms:.1f} | {part.decode_ms:.1f} | {part.head_ms:.1f} | "
                f"{part.masks_ms:.2f} | {part.total_ms:.1f} |"
            )
    yield "\nSources:\n"
    for source in dict.fromkeys(card.source for card in CARDS):
        names = ", ".join(card.name for card in CARDS if card.source == source)
        yield f"- {source}: {names}"


def main(
    prompts: Annotated[int, typer.Option(min=1)] = 1024,
    surviving: Annotated[float, typer.Option(min=0, max=1)] = 1 / 3,
    prompt_batch: Annotated[int, typer.Option(min=1, help="Prompts in one decoder call.")] = 256,
) -> None:
    """Print the projection as markdown."""
    for line in lines(prompts, surviving, prompt_batch):
        print(line)


if __name__ == "__main__":
    typer.run(main)
