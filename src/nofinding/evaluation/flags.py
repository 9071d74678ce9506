"""Flags of a row of scores.csv that `evaluate` acts on. Scoring writes them."""

__all__ = ["REFUSED", "TRAINED_ON", "TWIN_CALIBRATES", "TWIN_TRAINED"]

TRAINED_ON = "film: the model was trained on it"  # set by the pixels
TWIN_TRAINED = "film: the model was trained on an altered copy of it (a twin)"
TWIN_CALIBRATES = "film: an altered copy of it (a twin) calibrates the p-value"
REFUSED = "refused"  # begins the flag of a film that the input gate kept from being scored
