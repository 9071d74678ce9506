"""The value of the EHR that is nearest in time to each film, out of millions of readings.

The rule is that of `data/nearest_value.py`. One join of films and readings by patient inside the
window, and one minimum a film and kind: the readings stream past, and one row a film and kind is
held.
"""

from nofinding.data.nearest_value import CHOICE, COUNTS
from nofinding.datasets.build.database import CohortDatabase

__all__ = ["choose_nearest", "final_choices"]

NO_READINGS = (
    "(SELECT patient, taken AS noted, '' AS kind, 0 AS preference, 0 AS seq, "
    "NULL::DOUBLE AS value, NULL::DOUBLE AS second FROM moments WHERE false)"
)
"""What `choose_nearest` takes, without a row."""


def choose_nearest(database: CohortDatabase, readings: str, moments: str = "moments") -> None:
    """Adds to the table `choices` the nearest reading of each kind to each of `moments`.

    `readings`: (patient, noted, kind, preference, seq, value, second), where `preference` is the
    lower the better of those equally near, `seq` their order within a day, and `second` the
    diastolic of a systolic pressure, so that a pair stays a pair. `moments`: (patient, taken), when
    a patient had a film; each once.
    """
    one_each = (
        "SELECT patient, noted, kind, preference, seq, median(value) AS value, "
        f"median(second) AS second FROM {readings} GROUP BY ALL"
    )
    choices = (
        f"SELECT patient, taken, kind, min({CHOICE}) AS choice FROM ({one_each}) "
        f"JOIN {moments} USING (patient) WHERE {COUNTS} GROUP BY ALL"
    )
    window = database.choices.ehr_window
    database.run(
        f"CREATE TABLE IF NOT EXISTS choices AS {choices} LIMIT 0",
        [window.days, window.direction],
    )
    database.run(f"INSERT INTO choices {choices}", [window.days, window.direction])


def final_choices(database: CohortDatabase) -> None:
    """Makes the table `chosen` (patient, taken, kind, value, second, later) of the choices among
    all tables of readings that were looked at; without a row where there was none."""
    choose_nearest(database, NO_READINGS)
    database.run(
        "CREATE OR REPLACE TABLE chosen AS SELECT patient, taken, kind, choice.value AS value, "
        "choice.second AS second, choice.later AS later FROM "
        "(SELECT patient, taken, kind, min(choice) AS choice FROM choices GROUP BY ALL)"
    )
