"""The coded words of our objects. What no standard code says has one of ours, in 99NOFINDING."""

from highdicom.sr import CodedConcept

from nofinding.clinical.result import NOTICE

__all__ = [
    "ATTENTION",
    "CHEST",
    "MAP",
    "NOTICE",
    "PROCEDURE",
    "P_VALUE",
    "RATIO",
    "RESEARCH",
    "SCORE",
    "attention",
    "flag",
]

SCHEME = "99NOFINDING"


def _own(value: str, meaning: str) -> CodedConcept:
    return CodedConcept(value=value, scheme_designator=SCHEME, meaning=meaning)


SCORE = _own("SCORE", "Anomaly score")
MAP = _own("MAP", "Anomaly map")
ATTENTION = _own("ATTENTION", "Share of attention on a record field")
RESEARCH = _own("RESEARCH", "Research use only")
FLAGGED = _own("FLAGGED", "Flagged")
P_VALUE = CodedConcept(value="C44185", scheme_designator="NCIt", meaning="P-Value")
RATIO = CodedConcept(value="1", scheme_designator="UCUM", meaning="no units")
CHEST = CodedConcept(value="51185008", scheme_designator="SCT", meaning="Chest")
PROCEDURE = CodedConcept(value="399208008", scheme_designator="SCT", meaning="Plain chest X-ray")


def attention(field: str) -> CodedConcept:
    """The share of attention that a field of the record got, as a concept of its own."""
    return _own(f"ATTENTION-{field.upper()}"[:16], f"Share of attention on {field}"[:64])


def flag(number: int) -> CodedConcept:
    """The concept of the nth flag of a film."""
    return _own(f"FLAG-{number}", f"Flag {number}")
