"""From images to weights. Runs PyTorch; recipes are in ``recipes/``."""
