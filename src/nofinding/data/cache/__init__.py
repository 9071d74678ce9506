"""Prepared films on disk."""
