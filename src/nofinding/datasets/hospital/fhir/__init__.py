"""Films beside a record in FHIR R4."""
