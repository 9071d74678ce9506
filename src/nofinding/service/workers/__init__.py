"""Processes that score films, and who watches them."""
