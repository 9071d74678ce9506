"""Records out of a FHIR server, and results into it."""
