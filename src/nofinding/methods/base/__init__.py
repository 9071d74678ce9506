"""The protocol of a method, and what several methods share."""
