"""From weights to a bundle: merge LoRA, export the three graphs, verify them. Runs PyTorch."""
