"""How long it takes to give every film of MIMIC-CXR the nearest values of MIMIC-IV's record.

Writes tables of the size of MIMIC-CXR-JPG and MIMIC-IV (377,110 films of 65,379 patients in
227,835 studies, 7.75 million rows of omr, all gzipped; DRAWN AT RANDOM, of nobody), puts the cohort
together with `nofinding cohort --verify none`, and measures time and peak memory of the process.

Then it measures, on some films in a row from the middle of the same tables, the algorithm that the
authors of Diff3M published: for every study and every kind of value it reads the table of
measurements again from its beginning until the patient's rows are over. It is described here in
our own words, and given its table unpacked. What is compared is seconds a film.

usage: python benchmarks/ehr_join.py --folder FOLDER [--films 200] [--repeats 3] [--threads 2]
           [--out benchmarks/results/ehr_join]
"""

import argparse
import csv
import gzip
import os
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path

import duckdb
import pyarrow.parquet as pq

from nofinding.datasets.examples.mimic_cxr import COLUMNS

PATIENTS, STUDIES, FILMS, RESULTS = 65_379, 227_835, 377_110, 7_750_000
CXR, IV = "mimic-cxr-jpg/2.1.0", "mimiciv/3.1"
OMR = f"{IV}/hosp/omr.csv.gz"
METADATA = f"{CXR}/mimic-cxr-2.0.0-metadata.csv.gz"
KINDS = ("BMI (kg/m2)", "Blood Pressure", "Height (Inches)", "Weight (Lbs)")
WINDOW = 90
GOAL_S, GOAL_GIB = 60, 3

# One number in 0 to 1 for a row and a purpose, the same each time. Few patients have many rows.
MACROS = f"""
CREATE MACRO u(row, what) AS (hash(row, what) % 1000003) / 1000003.0;
CREATE MACRO whose(row, what) AS CASE WHEN row < {PATIENTS} THEN row
  ELSE floor({PATIENTS} * pow(u(row, what), 1.5))::BIGINT END;
CREATE MACRO subject(patient) AS 10000032 + patient * 152;
CREATE MACRO start(patient) AS DATE '2110-01-01' + floor(u(patient, 'start') * 30000)::INTEGER;
"""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a process took."""

    seconds: float
    """On the clock: more when others use the machine."""
    cpu: float
    """Seconds of one core: what it would take alone on one."""
    gib: float
    """Largest resident set."""
    load: float
    """How many processes wanted a core in the minute before (the system's load average)."""


# --- tables ----------------------------------------------------------------------------------


def write_tables(root: Path) -> None:
    """Writes the tables, ordered by patient as the publisher's are."""
    con = duckdb.connect()
    con.execute(MACROS)
    for folder in (CXR, f"{IV}/hosp"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    con.execute(f"""
        CREATE TABLE studies AS SELECT i AS study, whose(i, 'study') AS patient,
          start(patient) + floor(u(i, 'day') * 900)::INTEGER AS day,
          (floor(u(i, 'hour') * 24) * 10000 + floor(u(i, 'minute') * 60) * 100)::INTEGER AS clock,
          u(i, 'label') AS label FROM range({STUDIES}) AS t(i)""")
    con.execute(f"""
        CREATE TABLE films AS SELECT md5(i::VARCHAR) AS dicom, i AS film, study, patient, day,
          clock, i < {STUDIES} AS frontal FROM range({FILMS}) AS t(i)
          JOIN studies ON study = CASE WHEN i < {STUDIES} THEN i
            ELSE floor(u(i, 'film') * {STUDIES})::BIGINT END""")
    _copy(con, root / METADATA, """
        SELECT dicom AS dicom_id, subject(patient) AS subject_id, 50000000 + study AS study_id,
          'CHEST (PA AND LAT)' AS PerformedProcedureStepDescription,
          CASE WHEN NOT frontal THEN 'LATERAL' WHEN u(film, 'view') < 0.4 THEN 'PA' ELSE 'AP' END
            AS ViewPosition, 3056 AS "Rows", 2544 AS "Columns",
          strftime(day, '%Y%m%d') AS StudyDate, clock || '.5' AS StudyTime,
          'CHEST (PA AND LAT)' AS ProcedureCodeSequence_CodeMeaning,
          '' AS ViewCodeSequence_CodeMeaning, 'Erect' AS PatientOrientationCodeSequence_CodeMeaning
        FROM films ORDER BY patient, day, study, film""")  # fmt: skip
    _copy(con, root / CXR / "mimic-cxr-2.0.0-split.csv.gz", """
        SELECT dicom AS dicom_id, 50000000 + study AS study_id, subject(patient) AS subject_id,
          CASE WHEN u(patient, 'part') < 0.01 THEN 'test' WHEN u(patient, 'part') < 0.02
            THEN 'validate' ELSE 'train' END AS split
        FROM films ORDER BY patient, day, study, film""")  # fmt: skip
    said = ", ".join(
        f"CASE WHEN label < 0.35 THEN '1.0' END AS \"{name}\"" if name == "No Finding" else
        f"CASE WHEN label >= 0.35 AND u(study, '{name}') < 0.2 THEN '1.0' "
        f"WHEN label >= 0.35 AND u(study, '{name}') < 0.25 THEN '-1.0' END AS \"{name}\""
        for name in COLUMNS
    )  # fmt: skip
    _copy(con, root / CXR / "mimic-cxr-2.0.0-chexpert.csv.gz",
          "SELECT subject(patient) AS subject_id, 50000000 + study AS study_id, "
          f"{said} FROM studies ORDER BY 1, 2")  # fmt: skip
    # fmt: off
    _copy(con, root / IV / "hosp/patients.csv.gz", f"""
        SELECT subject(i) AS subject_id, CASE WHEN i % 2 = 0 THEN 'F' ELSE 'M' END AS gender,
          18 + floor(u(i, 'age') * 74)::INTEGER AS anchor_age, year(start(i)) AS anchor_year,
          '2011 - 2013' AS anchor_year_group, '' AS dod FROM range({PATIENTS}) AS t(i)""")
    # fmt: on
    _copy(
        con,
        root / OMR,
        f"""
        SELECT subject(patient) AS subject_id,
          start(patient) + floor(u(i, 'when') * 1500 - 300)::INTEGER AS chartdate,
          1 + (u(i, 'seq') < 0.1)::INTEGER AS seq_num, name AS result_name,
          CASE WHEN u(i, 'dirt') < 0.003 THEN '>60' WHEN name = 'BMI (kg/m2)'
            THEN round(18 + 20 * u(i, 'value'), 1)::VARCHAR
            WHEN name = 'Weight (Lbs)' THEN round(100 + 150 * u(i, 'value'))::VARCHAR
            WHEN name = 'Height (Inches)' THEN round(58 + 18 * u(i, 'value'))::VARCHAR
            ELSE (100 + floor(60 * u(i, 'value')))::INTEGER || '/'
              || (55 + floor(40 * u(i, 'lower')))::INTEGER END AS result_value
        FROM (SELECT i, whose(i, 'result') AS patient, CASE WHEN u(i, 'name') < 0.26
            THEN 'BMI (kg/m2)' WHEN u(i, 'name') < 0.55 THEN 'Weight (Lbs)'
            WHEN u(i, 'name') < 0.89 THEN 'Blood Pressure' ELSE 'Height (Inches)' END AS name
          FROM range({RESULTS}) AS t(i)) ORDER BY patient, chartdate, i""",
    )  # fmt: skip


def _copy(con: duckdb.DuckDBPyConnection, file: Path, select: str) -> None:
    con.execute(f"COPY ({select}) TO '{file}' (FORMAT csv, HEADER, COMPRESSION gzip)")


# --- ours ------------------------------------------------------------------------------------


def ours(root: Path, out: Path, threads: int) -> Run:
    """Puts the cohort together in a process of its own."""
    command = ["cohort", f"mimic-cxr:{root}", "--out", str(out), "--overwrite", "--verify", "none",
               "--threads", str(threads)]  # fmt: skip
    load, start = os.getloadavg()[0], time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", "import sys; from nofinding.cli import main; "
         "sys.exit(main(sys.argv[1:]))", *command],
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"nofinding cohort ended with {process.returncode}")
    return Run(
        seconds=time.perf_counter() - start,
        cpu=usage.ru_utime + usage.ru_stime,
        gib=usage.ru_maxrss / 2**20,
        load=load,
    )


# --- the published algorithm -----------------------------------------------------------------


def published(omr: Path, films: list[tuple[str, str, date]]) -> dict[str, dict[str, str]]:
    """The values of films (id, patient, day) as the published program finds them, by result name.

    A film of the patient and day of the one before takes over its values. For any other, and for
    each of the four kinds of value, the table is read from its beginning; the patient's rows
    within 90 days are kept, and reading stops at the first row of another patient after them. The
    mean of the values of the nearest day, or of both where two are equally near, is the result.
    """
    tables: dict[str, dict[str, str]] = {}
    before: tuple[str, date] | None = None
    values: dict[str, str] = {}
    for name, patient, day in films:
        if (patient, day) != before:
            values = {kind: value for kind in KINDS if (value := _scan(omr, kind, patient, day))}
            before = (patient, day)
        tables[name] = values
    return tables


def _scan(omr: Path, kind: str, patient: str, day: date) -> str:
    """One reading of the table, for one kind of value of one film; empty: there is none."""
    near: list[tuple[int, str]] = []
    reached = False
    with omr.open(newline="") as lines:
        table = csv.reader(lines)
        next(table)
        for subject, chartdate, _, result, value in table:
            if subject == patient and result in kind:
                reached = True
                apart = abs((day - datetime.strptime(chartdate, "%Y-%m-%d").date()).days)
                if apart <= WINDOW:
                    near.append((apart, value))
            if reached and subject != patient:
                break
    if not near:
        return ""
    least = min(apart for apart, _ in near)
    taken = [value for apart, value in near if apart == least]
    if len(taken) == 1:
        return taken[0]
    halves = [[float(part) for part in value.split("/")] for value in taken if value[0] != ">"]
    return "/".join(str(sum(column) / len(column)) for column in zip(*halves, strict=True))


def slice_of(metadata: Path, count: int) -> list[tuple[str, str, date]]:
    """Films in a row, from the middle of the table."""
    with gzip.open(metadata, "rt", newline="") as lines:
        rows = [*csv.DictReader(lines)]
    begin = (len(rows) - count) // 2
    return [
        (row["dicom_id"], row["subject_id"], datetime.strptime(row["StudyDate"], "%Y%m%d").date())
        for row in rows[begin : begin + count]
    ]


def same_bmi(cohort: Path, theirs: dict[str, dict[str, str]]) -> tuple[int, int]:
    """Of how many films that are in the cohort both have a BMI, and of how many the same."""
    table = pq.read_table(cohort / "films.parquet", columns=["image_id", "bmi"]).to_pylist()
    pairs = [
        (row["bmi"], float(theirs[row["image_id"]]["BMI (kg/m2)"]))
        for row in table
        if row["bmi"] is not None
        and theirs.get(row["image_id"], {}).get("BMI (kg/m2)", ">")[0] != ">"
    ]
    return len(pairs), sum(abs(one - other) < 1e-9 for one, other in pairs)


# --- report ----------------------------------------------------------------------------------


def report(
    runs: list[Run], slow: Run, films: int, read: int, bmi: tuple[int, int], threads: int
) -> str:
    """The page of results. `read`: for how many of the films the table was read."""
    seconds, cpu = (
        statistics.median(getattr(run, of) for run in runs) for of in ("seconds", "cpu")
    )
    gib = max(run.gib for run in runs)
    every = "; ".join(f"{r.seconds:.1f} s, {r.cpu:.1f} s, load {r.load:.0f}" for r in runs)
    ratio = float(f"{(slow.cpu / films) / (cpu / FILMS):.2g}")
    time_met = "met" if seconds < GOAL_S else "NOT met on the clock as the machine was"
    return f"""# The record's join

Tables of the size of MIMIC-CXR-JPG and MIMIC-IV, **drawn at random**, all gzipped: {FILMS:,} films of
{PATIENTS:,} patients in {STUDIES:,} studies, {RESULTS:,} rows of `omr`, all of patients with films
(in life some are of others, which is easier). `python benchmarks/ehr_join.py --folder FOLDER --films {films}`.

{os.cpu_count()} CPU cores ({platform.machine()}), {threads} threads, Python {platform.python_version()}, DuckDB
{duckdb.__version__}. **The machine was shared with other work**: the load average says how many processes wanted
its {os.cpu_count()} cores at the start of a run. Seconds on the clock are an upper bound; CPU seconds are what it takes alone
on one core, as near as can be told. Medians of {len(runs)} runs ({every}).

| | films | on the clock, s | CPU, s | CPU a film, ms | peak memory, GiB |
|---|---|---|---|---|---|
| `nofinding cohort --verify none`: start, reading, joining, split, table, page | {FILMS:,} | {seconds:.1f} | {cpu:.1f} | {cpu / FILMS * 1000:.3f} | {gib:.2f} (largest) |
| the published algorithm: the join alone, its table unpacked, 1 run | {films} | {slow.seconds:.1f} | {slow.cpu:.1f} | {slow.cpu / films * 1000:,.0f} | |

The published algorithm takes **about {ratio:,.0f} times** the CPU time a film: some {slow.cpu / films * FILMS / 3600:,.0f} hours for all films on one
core, where ours takes {cpu:.1f} s. (Its authors start 26 processes side by side.) Its films are {films} in a row from the
middle of the table, where a reading of `omr` stops half-way, as it does on average; {read} of them made it read, the others
were of the patient and day of the one before.

Goal: under {GOAL_S} s on 2 cores: {time_met} ({cpu:.1f} s of CPU time); under {GOAL_GIB} GiB: {"met" if gib < GOAL_GIB else "NOT met"}.

Both find a BMI for {bmi[0]} of these films that are in the cohort, and the same one for {bmi[1]}. The others differ by
rule: the published program takes the mean of all values of the nearest days, ours the one nearest value
(docs/cohorts.md).
"""  # noqa: E501


def main() -> None:
    """Draws the tables if they are not there, measures, and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--films", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/ehr_join"))
    given = parser.parse_args()
    if not (given.folder / OMR).exists():
        write_tables(given.folder)
    cohort = given.folder.parent / f"{given.folder.name}-cohort"
    runs = []
    for _ in range(given.repeats):
        runs.append(ours(given.folder, cohort, given.threads))
        print(runs[-1], flush=True)
    films = slice_of(given.folder / METADATA, given.films)
    plain = given.folder.parent / f"{given.folder.name}-omr.csv"
    with gzip.open(given.folder / OMR) as packed, plain.open("wb") as unpacked:
        while block := packed.read(2**22):
            unpacked.write(block)
    load, start, cpu = os.getloadavg()[0], time.perf_counter(), time.process_time()
    theirs = published(plain, films)
    slow = Run(seconds=time.perf_counter() - start, cpu=time.process_time() - cpu, gib=0, load=load)
    read = len({film[1:] for film in films})
    text = report(runs, slow, len(films), read, same_bmi(cohort, theirs), given.threads)
    given.out.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
