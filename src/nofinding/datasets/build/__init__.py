"""From a publisher's tables to a cohort: linkage, splits, flow, folder."""
