"""Training: the loop, what a step depends on, and one training from images to weights on disk."""
