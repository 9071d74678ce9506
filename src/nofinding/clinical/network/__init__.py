"""Films and objects on their way: DICOMweb, C-STORE, and which of the two."""
