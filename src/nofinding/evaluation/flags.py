"""Flags of a row of scores.csv that `evaluate` acts on. Scoring writes them."""

__all__ = ["REFUSED", "TRAINED_ON"]

TRAINED_ON = "film: the model was trained on it"  # set by the pixels
REFUSED = "refused"  # begins the flag of a film that the input gate kept from being scored
