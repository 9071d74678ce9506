"""DICOM objects that carry a score, and what they repeat of the film."""
