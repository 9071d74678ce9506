"""Libraries that would log who the patient is."""

import logging

__all__ = ["hush"]


def hush(*names: str) -> None:
    """Silences these libraries' logs at every level: addresses with ids of patients in them, UIDs
    or whole objects are in what they say, and no level is safe from somebody's setting."""
    for name in names:
        logger = logging.getLogger(name)
        logger.setLevel(logging.CRITICAL + 1)
        logger.propagate = False
