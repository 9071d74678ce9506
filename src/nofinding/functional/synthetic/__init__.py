"""Synthetic anomalies and differences between acquisitions."""
