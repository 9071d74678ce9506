"""Baselines: what the other methods have to beat."""
