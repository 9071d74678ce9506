"""SOURCE:PATH, as written on the command line, to records."""

import copy
import hashlib
import os
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, chain
from pathlib import Path

from nofinding.data.cache.film_cache import FilmCache
from nofinding.data.decoding.decode import FilmFile
from nofinding.data.ehr import FIELDS, EhrField, read_fields
from nofinding.data.nearest_value import EhrWindow
from nofinding.data.split import check_splits
from nofinding.datasets import SOURCES
from nofinding.datasets.build.lesions import MaskLesion
from nofinding.datasets.protocol import ExamSequence, Remarking, StoredSource, Windowed
from nofinding.datasets.synthetic import innermost
from nofinding.errors import UserError
from nofinding.progress import say
from nofinding.storage.file_names import printed
from nofinding.types import Exam

__all__ = ["Cohort", "cache_at", "known_fields", "source_of"]


def source_of(spec: str) -> tuple[str, str]:
    """("table", "films.csv") of "table:films.csv". Raises UserError for an unknown source."""
    name, colon, root = spec.partition(":")
    if not colon or name not in SOURCES:
        raise UserError(
            f"--films {spec!r}: write SOURCE:PATH, where SOURCE is one of {', '.join(SOURCES)}"
        )
    return name, root


def known_fields(file: Path | None) -> dict[str, EhrField]:
    """The built-in record fields, and those of the user's file if there is one."""
    return dict(FIELDS) if file is None else read_fields(file)


def cache_at(folder: Path | None) -> FilmCache:
    """The cache of decoded films: `folder`, NOFINDING_CACHE, or ~/.cache/nofinding."""
    default = os.environ.get("NOFINDING_CACHE") or Path.home() / ".cache" / "nofinding"
    return FilmCache(folder or Path(default))


class Chained(ExamSequence):
    """The films of several sources one after the other, without a copy of any."""

    def __init__(self, parts: Sequence[Sequence[Exam]]) -> None:
        self._parts = [part for part in parts if len(part)]
        self._ends = [*accumulate(len(part) for part in self._parts)]

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __iter__(self) -> Iterator[Exam]:
        return chain.from_iterable(self._parts)

    def exam(self, index: int) -> Exam:
        """The film of that number, counted through the sources."""
        place = bisect_right(self._ends, index)
        return self._parts[place][index - (self._ends[place - 1] if place else 0)]


class Cohort:
    """The records of one or more sources, checked: ids are unique, no patient in two splits."""

    exams: Sequence[Exam]
    """In the order of the sources; those of a cohort folder are made when they are asked for."""

    def __init__(
        self,
        specs: Sequence[str],
        fields: Mapping[str, EhrField],
        *,
        look: bool = True,
        remark: bool = True,
    ) -> None:
        """Reads every row and, with `look`, finds every film; decodes none. Says what is noticed of
        a table, unless `remark` is false. Raises UserError."""
        if not specs:
            raise UserError("--films is missing: write SOURCE:PATH, for example table:films.csv")
        self.specs = tuple(specs)
        parts = [source_of(spec) for spec in specs]
        self._of_source: list[Sequence[Exam]] = []
        offered: set[str] = set()
        for name, root in parts:
            source = SOURCES[name]
            if isinstance(source, StoredSource):
                self._of_source.append(source.sequence(root, fields))
            else:
                self._of_source.append(list(source.read(root, fields)))
            offered |= set(source.offers(root, fields))
            if remark and isinstance(source, Remarking):
                for noticed in source.remarks(root, fields):
                    say(f"{name}:{root}: {noticed.what}: {noticed.count:,}")
        self.exams = Chained(self._of_source)
        self.offers = tuple(name for name in fields if name in offered)
        self.phantom = any(innermost(*part)[1] == "phantom" for part in parts)
        if len(parts) > 1 or not isinstance(SOURCES[parts[0][0]], StoredSource):
            check_splits(self.exams)
        for exam in self.exams if look else ():
            if isinstance(exam.pixels, FilmFile):
                exam.pixels.check()
            if isinstance(exam.lesion, MaskLesion):
                exam.lesion.check()

    @property
    def name(self) -> str:
        """What the report calls it: the sources, without the folders that hold them."""
        shown = []
        for spec in self.specs:
            before, name, root = innermost(*source_of(spec))
            path = Path(root)
            is_file = name != "phantom" and path.name
            inner = Path(path.parent.name) / path.name if is_file else root
            shown.append(f"{before}{name}:{inner}")
        return printed(", ".join(shown))

    @property
    def ehr_window(self) -> EhrWindow | None:
        """When a value of the EHR counted for a film; None where no source says. Raises UserError
        where two differ."""
        windows: dict[EhrWindow, str] = {}
        for spec in self.specs:
            _, name, root = innermost(*source_of(spec))
            if isinstance(source := SOURCES[name], Windowed):
                windows.setdefault(source.ehr_window(root), f"{name}:{root}")
        if len(windows) > 1:
            said = ", ".join(f"{spec} {window}" for window, spec in windows.items())
            raise UserError(f"--films: values of the EHR count differently ({said}); build the "
                            "cohorts with one --window and --direction")  # fmt: skip
        return next(iter(windows), None)

    def balanced(self, exams: Sequence[Exam], most: int) -> list[Exam]:
        """The records, those of small sources `most` times at most, so that no source drowns
        another: each is repeated as often as it fits into the largest."""
        ids = {exam.image_id for exam in exams}
        number = {
            exam.image_id: place
            for place, part in enumerate(self._of_source)
            for exam in part
            if exam.image_id in ids
        }
        counts = Counter(number[exam.image_id] for exam in exams)
        largest = max(counts.values())
        out: list[Exam] = []
        for exam in exams:
            out += [exam] * min(most, largest // counts[number[exam.image_id]])
        return out

    def part(self, exams: Sequence[Exam]) -> "Cohort":
        """Some of its films, as a cohort of the same name and fields."""
        part = copy.copy(self)
        part.exams = list(exams)
        return part

    def fingerprint(self) -> str:
        """One hash over who is in which part and what was known of them."""
        lines = sorted(
            f"{r.image_id}|{r.patient_id}|{r.split}|{sorted(r.ehr.items())}" for r in self.exams
        )
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()
