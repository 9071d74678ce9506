"""HTTP to one address and nowhere else, within bounds."""
