"""Networks that two or more methods use. They take tensors, never a Batch."""
