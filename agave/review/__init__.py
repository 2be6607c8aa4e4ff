"""Tools for reviewers: check the results of a preset, and gather them with their provenance for deposit."""
