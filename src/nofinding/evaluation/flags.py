"""Flags of a row of scores.csv that `evaluate` acts on. Scoring writes them."""

__all__ = ["REFUSED", "TRAINED_ON", "TWIN_CALIBRATES", "TWIN_TRAINED"]

TRAINED_ON = "film: the model was trained on it"  # set by the pixels
TWIN_TRAINED = "film: the model was trained on it in other clothes (a twin)"
TWIN_CALIBRATES = "film: it calibrates the p-value in other clothes (a twin)"
REFUSED = "refused"  # begins the flag of a film that the input gate kept from being scored
