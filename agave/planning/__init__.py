"""Estimates before anything runs: the cost of a preset, and the sizes of its networks."""
