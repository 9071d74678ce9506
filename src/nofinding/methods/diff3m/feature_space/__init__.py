"""Diff3M's relative in a space of features, the default method."""
