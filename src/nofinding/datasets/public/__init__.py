"""Public datasets, as their publishers ship them."""
