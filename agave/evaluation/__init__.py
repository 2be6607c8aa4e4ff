"""Evaluation of trained models: the one-sample bound, importance sampling, and the memory that they take."""
