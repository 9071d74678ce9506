"""How far a chest radiograph is from the normal ones, where, and how sure that is."""

__version__ = "0.1.0"
