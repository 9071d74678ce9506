"""Films scored by a model: options, the job, batches, the journal and the merge."""
