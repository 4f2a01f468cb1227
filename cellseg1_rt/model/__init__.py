"""SAM as PyTorch modules: built at any image size, its weights, and LoRA in upstream's form.

Shared by ``train`` and ``export``, the two stages that run PyTorch. May import torch,
safetensors and segment-anything; no part of the runtime imports it.
"""

from cellseg1_rt.extras import require

for _package in ("torch", "safetensors", "segment_anything"):
    require(_package, extra="train", needed_for="SAM in PyTorch")
