"""Distances, densities and memories of feature vectors and maps."""
