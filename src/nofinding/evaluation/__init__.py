"""Scores joined to labels: metrics with intervals, baselines, and the report.

Each part is imported from its own file: scoring needs the calibration, and no figures.
"""
