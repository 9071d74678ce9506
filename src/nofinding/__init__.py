"""How far a chest radiograph is from normal for this patient, where, and how sure that is."""

__version__ = "0.1.0"
