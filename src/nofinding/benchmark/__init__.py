"""The grid of methods, cohorts and seeds, and its report."""
