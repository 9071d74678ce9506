"""films.csv beside a record that has no films of its own: which there are, of whom, and when.

The columns: the patient's id (as the record calls it), `path`, `taken`; and, where they are there,
`image_id`, `view`, `findings` (joined by "|", empty or "No Finding" is normal) and `split`.
"""

from pathlib import Path

from nofinding.datasets.build.database import CohortDatabase
from nofinding.errors import UserError

__all__ = ["take_film_list"]


def take_film_list(database: CohortDatabase, file: Path, patient: str) -> None:
    """Makes the films of the list. The list's word counts: every row is a frontal film, unless
    its view says otherwise. Raises UserError where a column is absent or a split unknown."""
    titles = database.csv(
        "list", file, (patient, "path", "taken"), also=("image_id", "view", "findings", "split")
    )
    folded = {title.casefold() for title in titles}
    wrong = database.run(
        "SELECT split FROM list "
        "WHERE lower(trim(split)) NOT IN ('train', 'val', 'test', '') LIMIT 1"
    )
    if wrong:
        raise UserError(
            f"{file}: column split: {wrong[0][0][:40]!r} is not one of train, val, test, or empty"
        )
    path = "list_filter(findings_in(findings), lambda x: NOT no_finding(x))"
    database.films(
        f"""
        SELECT pseudonym('film', coalesce(image_id, path)) AS image_id,
          pseudonym('patient', whole(regexp_replace(trim("{patient}"), '^Patient/', '')))
            AS patient_id,
          trim(path) AS path, moment(taken) AS taken,
          nullif(lower(trim(split)), '') AS split, nullif(upper(trim(view)), '') AS view,
          {path if "findings" in folded else "NULL::VARCHAR[]"} AS findings,
          CASE WHEN len(findings_in(findings)) > len({path}) AND len({path}) > 0
            THEN 'labelled No Finding and a finding at once' END AS unfit
        FROM list
        """
    )
    database.drop("view IS NOT NULL AND view NOT IN ('PA', 'AP')", "neither PA nor AP")
