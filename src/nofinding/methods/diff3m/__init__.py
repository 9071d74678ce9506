"""Diff3M (Kim et al., MICCAI 2025), on pixels and on features."""
