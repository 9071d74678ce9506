"""Schedules, samplers and masks of diffusion models."""
