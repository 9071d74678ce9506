"""Autoencoders and their kin: what cannot be rebuilt is abnormal."""
