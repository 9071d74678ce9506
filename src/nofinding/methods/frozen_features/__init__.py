"""Methods on top of the features of a frozen network."""
