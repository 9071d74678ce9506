"""What lies on a disk, whole or not at all: checkpoints, journals, databases."""
