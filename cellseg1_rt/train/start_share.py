"""How much of what training changed is kept: as much as the SAM that it began with was lacking.

On a kind of image that a SAM half knows, a LoRA of one image fits that image and forgets others.
Weights between those before and after training keep both (Wortsman et al. 2022, "Robust
fine-tuning of zero-shot models"). There the share is fixed; here it follows from the SAM, which the
one image can tell, since nothing of it was trained on yet. May import torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from cellseg1_rt.evaluate import average_precision
from cellseg1_rt.model.lora_layout import LoraSite, is_replaced
from cellseg1_rt.model.torch_backend import TorchBackend
from cellseg1_rt.runtime.pipeline import segment_rgb
from cellseg1_rt.settings import InferenceSettings

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

    from cellseg1_rt.train.lora_inputs import TrainingImage

__all__ = ["found_before", "shared_lora"]


def found_before(sam: Sam, images: Sequence[TrainingImage], settings: InferenceSettings) -> float:
    """Mean AP@0.5 of annotated images that a SAM was not trained on, 0 to 1.

    Parameters
    ----------
    sam : in eval mode.
    settings : how the images are segmented.
    """
    backend = TorchBackend(sam)
    precisions = [
        average_precision(
            segment_rgb(one.rgb, backend, settings, backend.prompts_at_once).labels, one.labels
        )
        for one in images
    ]
    return sum(precisions) / len(precisions)


def shared_lora(
    start: Mapping[str, Tensor],
    trained: Mapping[str, Tensor],
    sites: Sequence[LoraSite],
    share: float,
) -> dict[str, Tensor]:
    """A LoRA that changes a SAM by ``share`` of what a trained one does.

    Merged, its weights are start + share · (trained - start): B of every product is scaled, and
    the tensors that replace SAM's lie between both.

    Parameters
    ----------
    start, trained : LoRAs of one SAM in upstream's layout; B of ``start`` is zero.
    sites : where the LoRA sits (``lora_sites``).
    share : 0 to 1.
    """
    scaled = {site.b_key: trained[site.b_key] * share for site in sites}
    between = {
        key: start[key].lerp(value, share) for key, value in trained.items() if is_replaced(key)
    }
    return {**trained, **scaled, **between}
