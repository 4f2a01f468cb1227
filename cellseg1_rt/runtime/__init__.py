"""From an image to labels: prompts, candidates, NMS, clean-up, painting. Never imports torch."""
