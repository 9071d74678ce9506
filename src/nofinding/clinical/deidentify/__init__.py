"""DICOM films de-identified, in a child process."""
