"""Methods that use a network that has read radiology reports."""
