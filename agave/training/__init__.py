"""Training: one loop for every system, its schedule, and a job from images to weights."""
