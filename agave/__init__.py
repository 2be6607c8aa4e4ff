"""Auxiliary Guided Autoregressive Variational Autoencoders (Lucas & Verbeek, 2017), reproduced."""
