"""The value of the record that is nearest in time to each film, out of millions of readings.

One join of films and readings by patient inside the window, and one minimum a film and kind: the
readings stream past, what is kept is one row a film and kind.
"""

from nofinding.datasets.build.database import CohortDatabase

__all__ = ["CHOICES", "MOMENTS", "READINGS", "choose_nearest", "final_choices"]

MOMENTS = "patient BIGINT, taken TIMESTAMP"
"""The columns of the table `moments`: when a patient had a film; each once."""

READINGS = (
    "patient BIGINT, noted TIMESTAMP, timed BOOLEAN, kind VARCHAR, preference INTEGER, "
    "seq BIGINT, value DOUBLE, second DOUBLE"
)
"""The columns of a table of readings. `timed`: whether `noted` has a time, or is a day;
`preference`: the lowest is taken of those equally near; `seq`: the order on one day of those
without a time; `second`: the diastolic of a systolic pressure, so that a pair stays a pair."""

# Compared from left to right; the least is taken.
_CHOICE = """{
  'days': CASE WHEN timed THEN abs(epoch_ms(taken) - epoch_ms(noted)) // 86400000
    ELSE abs(taken::DATE - noted::DATE) END,
  'dated': CASE WHEN timed THEN 0 ELSE 1 END,
  'apart': CASE WHEN timed THEN abs(epoch_ms(taken) - epoch_ms(noted)) ELSE 0 END,
  'later': CASE WHEN timed THEN noted > taken ELSE noted::DATE > taken::DATE END,
  'preference': preference,
  'turn': CASE WHEN NOT timed AND noted::DATE < taken::DATE THEN -seq ELSE seq END,
  'value': value, 'second': second}"""

CHOICES = (
    "patient BIGINT, taken TIMESTAMP, kind VARCHAR, choice STRUCT(days BIGINT, dated INTEGER, "
    "apart BIGINT, later BOOLEAN, preference INTEGER, turn BIGINT, value DOUBLE, second DOUBLE)"
)


def choose_nearest(database: CohortDatabase, readings: str) -> None:
    """Adds to the table `choices` the nearest reading of each kind to each of `moments`.

    A reading counts if its day is at most --window days from the film's. The fewest days apart
    come first: full days between two times, or between two dates where the reading has no time.
    Then one with a time before one without; the shorter time; one before the film; the lower
    preference; of several on one day the one nearest to the film: the last of a day before it,
    the first of its own day or a later one; the lower value of what is left.
    """
    database.run(f"CREATE TABLE IF NOT EXISTS choices ({CHOICES})")
    database.run(
        f"INSERT INTO choices SELECT patient, taken, kind, min({_CHOICE}) "
        f"FROM {readings} JOIN moments USING (patient) "
        "WHERE abs(taken::DATE - noted::DATE) <= ? GROUP BY ALL",
        [database.choices.window],
    )


def final_choices(database: CohortDatabase) -> None:
    """Makes the table `chosen` (patient, taken, kind, value, second) of the choices among all
    tables of readings that were looked at."""
    database.run(f"CREATE TABLE IF NOT EXISTS choices ({CHOICES})")
    database.run(
        "CREATE OR REPLACE TABLE chosen AS SELECT patient, taken, kind, choice.value AS value, "
        "choice.second AS second FROM "
        "(SELECT patient, taken, kind, min(choice) AS choice FROM choices GROUP BY ALL)"
    )
