"""Diffusion models on latents and feature maps."""
