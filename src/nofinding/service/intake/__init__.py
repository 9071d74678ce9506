"""Films on their way into the queue."""
