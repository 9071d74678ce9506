"""Methods that learn from anomalies painted on normal films."""
