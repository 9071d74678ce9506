"""How old a patient was by a DICOM header: one rule for every intake.

PatientAge counts where it says something; a zero is what devices and de-identification write where
nothing is known, so it stands for unknown, whatever its unit. Then the dates of birth and of the
film say the age, and only they can say that it is a few hours.
"""

import re
from collections.abc import Mapping
from datetime import date
from typing import NamedTuple

__all__ = ["AGE_ELEMENTS", "DAYS", "ZERO", "Age", "age_of", "stated_age", "study_day"]

# In the order of trust: when the film was taken, made, or belongs to.
DAYS = ("AcquisitionDateTime", "AcquisitionDate", "ContentDate", "SeriesDate", "StudyDate")
AGE_ELEMENTS = ("PatientAge", "PatientBirthDate", *DAYS)
UNITS = {"": 1.0, "Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}  # years
OLDEST = 120.0  # years, as of the field
APART = 2.0  # years by which an age and a date of birth may differ
ZERO = "age: 0 stands for unknown"
UNUSABLE = "age: what the file's header says cannot be used"
DISAGREE = "age: PatientAge and PatientBirthDate disagree, PatientAge counts"


class Age(NamedTuple):
    """An age, and what is to be said of it."""

    years: float | None
    flag: str = ""


def stated_age(text: str) -> float | None:
    """Years of an age string, "063Y", "018M", "004W", "010D"; some films leave the letter out.

    None for anything else.
    """
    match = re.fullmatch(r"(\d{1,3})([YMWD]?)", text.strip().upper(), re.ASCII)
    return None if match is None else int(match[1]) * UNITS[match[2]]


def study_day(header: Mapping[str, str]) -> date | None:
    """The first of the film's dates that is one."""
    return next((day for day in (_day(header.get(name, "")) for name in DAYS) if day), None)


def age_of(header: Mapping[str, str]) -> Age:
    """The age in years by AGE_ELEMENTS, as they are written; absent ones are left out or ""."""
    text = header.get("PatientAge", "").strip()
    stated, by_dates = stated_age(text), _by_dates(header)
    if by_dates is not None and (not stated or stated > OLDEST):
        return Age(by_dates)
    if stated == 0:
        return Age(None, ZERO)
    if stated is None:
        wrong = text or (header.get("PatientBirthDate", "").strip() and study_day(header))
        return Age(None, UNUSABLE if wrong else "")
    if by_dates is not None and abs(by_dates - stated) > APART:
        return Age(stated, DISAGREE)
    return Age(stated)  # an impossible one is told of by value, as every field's is


def _by_dates(header: Mapping[str, str]) -> float | None:
    """Years from birth to the study; None where a date is missing, or they are impossible."""
    born, day = _day(header.get("PatientBirthDate", "")), study_day(header)
    if born is None or day is None:
        return None
    years = (day - born).days / 365.25
    return years if 0 <= years <= OLDEST else None


def _day(text: str) -> date | None:
    """A date as DICOM writes it, or did before 1993 (2020.01.31), or as ISO 8601 does."""
    match = re.match(r"(\d{4})([.-]?)(\d{2})\2(\d{2})", text.strip(), re.ASCII)
    try:
        return None if match is None else date(int(match[1]), int(match[3]), int(match[4]))
    except ValueError:
        return None
