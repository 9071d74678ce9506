"""A fitted method in use: its folder, its calibration, its input gate and its parity."""
