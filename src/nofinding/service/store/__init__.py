"""What the service keeps on its disk."""
