"""`synthetic:SOURCE:PATH`: normal films of another source, some with an anomaly put into them.

`synthetic:kinds=nodule+opacity,share=0.5,split=val,seed=0:table:films.csv`. Options, if any, stand
first; all that follows is the other source, as it would be written by itself.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

import numpy as np
import torch
import torch.nn.functional as F

from nofinding.data.decoding.decode import FilmFile
from nofinding.data.ehr import EhrField
from nofinding.data.split import hold_out, normals
from nofinding.datasets.protocol import Source
from nofinding.errors import UserError
from nofinding.functional.noise import generators
from nofinding.functional.synthetic.suite import SUITE, VERSION
from nofinding.types import Exam, Lesion, Pixels

__all__ = ["ChangedFilm", "ChangedLesion", "Options", "Synthetic", "innermost", "parse_options"]

KEYS = ("kinds", "share", "split", "seed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Which films get an anomaly, and which one."""

    kinds: tuple[str, ...] = tuple(SUITE)
    """The kinds of anomaly, each on as many films as the others."""
    share: float = 0.5
    """Of the patients of the split, those whose films get one."""
    split: Literal["val", "test"] = "val"
    """The part whose films get one; the others stay as they are."""
    seed: int = 0
    """Another seed picks other patients and draws other anomalies."""


@dataclass(frozen=True, slots=True)
class ChangedFilm:
    """A normal film with an anomaly in it. Calling it decodes the film and draws the anomaly."""

    pixels: Callable[[], Pixels]
    """The normal film."""
    partner: Callable[[], Pixels] | None
    """The normal film of somebody else that foreign pieces come from; None where none do."""
    kind: str
    seed: int
    image_id: str
    """Of the film: with the seed, it decides what is drawn."""

    def __call__(self) -> Pixels:
        """(h, w) in [0, 1], equal to the normal film outside the lesion to the last bit."""
        return self.draw()[0]

    def draw(self) -> tuple[Pixels, Lesion]:
        """The changed film, and where it was changed. Raises UserError where nothing shows."""
        film = torch.from_numpy(np.array(self.pixels(), dtype=np.float32))[None, None]
        other = None
        if self.partner is not None:
            theirs = torch.from_numpy(np.array(self.partner(), dtype=np.float32))[None, None]
            size = (film.shape[2], film.shape[3])
            other = F.interpolate(theirs, size=size, mode="bilinear", antialias=True).clamp(0, 1)
        changed, mask = SUITE[self.kind](film, generators(self.seed, [self.image_id]), other)
        if not mask.any():
            raise UserError(
                f"synthetic: on film {self.image_id!r} no {self.kind} can be seen, wherever it is "
                "put; leave the film or the kind out"
            )
        return changed[0, 0].numpy(), mask[0, 0].numpy()

    def fingerprint(self) -> str:
        """SHA-256 (hex) of all that the pixels depend on."""
        films = [_fingerprint(part) for part in (self.pixels, self.partner) if part is not None]
        recipe = ["synthetic", VERSION, films, self.kind, self.seed, self.image_id]
        return hashlib.sha256(json.dumps(recipe).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class ChangedLesion:
    """Where a changed film was changed."""

    film: ChangedFilm

    def __call__(self) -> Lesion:
        """(h, w), True on the anomaly, on the grid of the film."""
        return self.film.draw()[1]


@dataclass(frozen=True, slots=True)
class Synthetic:
    """The source behind `--films synthetic:table:films.csv`."""

    of: Mapping[str, Source]
    """The sources that it can take films from."""
    name: str = "synthetic"
    summary: str = "another source's normal films, some with a synthetic anomaly and its exact mask"

    def read(self, root: str, fields: Mapping[str, EhrField]) -> Iterator[Exam]:
        """The other source's normal films in its order, under their own ids.

        Films with a finding, and those of which nobody says, are left out. Raises UserError for a
        faulty option, and where the split has no normal film, or no patient to leave normal.
        """
        text, source, path = self._parts(root)
        options = parse_options(text)
        exams = [r for r in source.read(path, fields) if r.findings == frozenset()]
        normal = normals(exams, options.split)
        held, drawn = hold_out(normal, options.share, options.seed)
        if not drawn or not held:
            raise UserError(
                f"synthetic: {source.name}:{path} has normal films of "
                f"{len({r.patient_id for r in normal})} patients in split {options.split}; "
                "there must be 2 or more"
            )
        changed = _changed(drawn, normal, options)
        return (changed.get(exam.image_id, exam) for exam in exams)

    def offers(self, root: str, fields: Mapping[str, EhrField]) -> tuple[str, ...]:
        """The fields that the other source can give."""
        _, source, path = self._parts(root)
        return source.offers(path, fields)

    def _parts(self, root: str) -> tuple[str, Source, str]:
        """The options, the other source, and what is written behind it."""
        before, name, path = innermost(self.name, root)
        if name not in self.of:
            raise UserError(
                f"synthetic:{root}: write synthetic:SOURCE:PATH, or with options, such as "
                f"synthetic:share=0.5:SOURCE:PATH, where SOURCE is one of {', '.join(self.of)}"
            )
        return before.removeprefix(f"{self.name}:").removesuffix(":"), self.of[name], path


def innermost(name: str, root: str) -> tuple[str, str, str]:
    """("synthetic:share=0.5:", "table", "films.csv"): whose films they are, and what is before it.

    ("", name, root) for any other source.
    """
    if name != "synthetic":
        return "", name, root
    first, colon, rest = root.partition(":")
    options = f"{first}:" if colon and "=" in first else ""
    inner, _, path = (rest if options else root).partition(":")
    return f"{name}:{options}", inner, path


def _changed(drawn: Sequence[Exam], split: Sequence[Exam], options: Options) -> dict[str, Exam]:
    """The films drawn, with their anomalies, by image_id.

    Films take the kinds in turn, in an order that the seed and their ids decide.
    """

    def place(exam: Exam, what: str) -> bytes:
        return hashlib.sha256(f"{options.seed}|{what}|{exam.image_id}".encode()).digest()

    partners = sorted(split, key=lambda r: place(r, "partner"))
    by_id: dict[str, Exam] = {}
    for turn, exam in enumerate(sorted(drawn, key=lambda r: place(r, "kind"))):
        kind = options.kinds[turn % len(options.kinds)]
        partner = None
        if SUITE[kind].foreign:
            others = (partners[(turn + n) % len(partners)] for n in range(len(partners)))
            partner = next(r.pixels for r in others if r.patient_id != exam.patient_id)
        for pixels in (exam.pixels, partner):
            if isinstance(pixels, FilmFile):
                pixels.check()
        film = ChangedFilm(exam.pixels, partner, kind, options.seed, exam.image_id)
        by_id[exam.image_id] = replace(
            exam,
            pixels=film,
            findings=frozenset({f"synthetic {kind}"}),
            lesion=ChangedLesion(film),
        )
    return by_id


def parse_options(text: str) -> Options:
    """Reads "kinds=nodule+opacity,share=0.5". Empty text gives the defaults.

    Raises UserError naming the key or value and what is allowed.
    """
    given: dict[str, object] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or key not in KEYS:
            raise UserError(f"synthetic: {part!r}: write key=value; keys are {', '.join(KEYS)}")
        if key in given:
            raise UserError(f"synthetic: {key} is given twice")
        given[key] = _value(key, value)
    return Options(**given)  # type: ignore[arg-type]  # each value was read for its key


def _value(key: str, text: str) -> object:
    """The value of one key."""
    if key == "kinds":
        kinds = tuple(dict.fromkeys(kind.strip() for kind in text.split("+")))
        if kinds == ("all",):
            return tuple(SUITE)
        if unknown := [kind for kind in kinds if kind not in SUITE]:
            raise UserError(
                f"synthetic: kinds={unknown[0]}: all, or some of {', '.join(SUITE)}, joined by +"
            )
        return kinds
    if key == "split":
        if text not in ("val", "test"):
            raise UserError(f"synthetic: split={text}: allowed are val, test")
        return cast(Literal["val", "test"], text)
    if key == "seed":
        if not (text.isascii() and text.isdigit()) or len(text) > 10 or int(text) >= 2**31:
            raise UserError(f"synthetic: seed={text}: a whole number from 0 to {2**31 - 1}")
        return int(text)
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 < share < 1:
        raise UserError(f"synthetic: share={text}: a number above 0 and below 1")
    return share


def _fingerprint(pixels: Callable[[], Pixels]) -> str:
    """The film's own, or where it has none, a hash of its pixels."""
    own: Callable[[], str] | None = getattr(pixels, "fingerprint", None)
    if own is not None:
        return own()
    film = np.ascontiguousarray(pixels(), dtype="<f4")
    return hashlib.sha256(f"{film.shape}".encode() + film.tobytes()).hexdigest()
