"""Likelihoods and their bounds on the test images."""
