"""Diffusion models on pixels."""
