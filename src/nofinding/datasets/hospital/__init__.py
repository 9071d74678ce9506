"""A hospital's own films and records: DICOM, OMOP, FHIR."""
