"""The Python interface: what `import nofinding as nf` gives.

The command line and the service stand on the same functions as this. Nothing is fetched from
anywhere, and nothing is written but where a path is given.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np

from nofinding.benchmark.grid import bench as run_bench
from nofinding.benchmark.options import BenchOptions
from nofinding.data.cache.film_cache import FilmCache
from nofinding.data.ehr import EhrField
from nofinding.data.split import normals
from nofinding.data.twin_choice import TwinCheck
from nofinding.datasets import SOURCES
from nofinding.datasets.cohort import Cohort, cache_at, known_fields
from nofinding.errors import UserError
from nofinding.evaluation.assess import evaluate as assess
from nofinding.evaluation.statistics.strata import Stratum
from nofinding.methods import METHODS
from nofinding.model.input_gate import GateMode
from nofinding.model.pretrained import AUTO, model_folder
from nofinding.progress import tracked
from nofinding.scoring.batch_scorer import Scorer
from nofinding.scoring.exams import Bright, ehr_rows, exam_of, is_one_film
from nofinding.scoring.prediction import (
    NOTICE,
    Prediction,
    Predictions,
    need_pandas,
    write_predictions,
)
from nofinding.scoring.predictor import Loaded, Resident
from nofinding.scoring.selection import Selection
from nofinding.types import Exam, Split
from nofinding.workflows.fit import FitOptions
from nofinding.workflows.fit import fit as run_fit

__all__ = [
    "BenchReport",
    "EvaluationReport",
    "Films",
    "MethodInfo",
    "Methods",
    "Model",
    "bench",
    "evaluate",
    "fit",
    "listing",
    "load",
    "open",
    "sources",
]

DEFAULT_METHOD = "diff3m-f"


class Films(Sequence[Exam]):
    """The exams of one or more sources, or a part of them. Nothing is decoded before it is needed.

    A sequence of Exam; `normal`, `abnormal` and `split` give parts of it.
    """

    def __init__(self, cohort: Cohort, exams: Sequence[Exam] | None = None) -> None:
        self.cohort = cohort
        self._exams = cohort.exams if exams is None else exams

    @property
    def name(self) -> str:
        """What reports call it: the sources, without the folders that hold them."""
        return self.cohort.name

    def __len__(self) -> int:
        return len(self._exams)

    def __iter__(self) -> Iterator[Exam]:
        return iter(self._exams)

    @overload
    def __getitem__(self, index: int) -> Exam: ...
    @overload
    def __getitem__(self, index: slice) -> "Films": ...
    def __getitem__(self, index: int | slice) -> "Exam | Films":
        if isinstance(index, slice):
            return Films(self.cohort, list(self._exams[index]))
        return self._exams[index]

    def split(self, name: Split) -> "Films":
        """The films of this split: "train", "val" or "test"."""
        return self._part(lambda exam: exam.split == name)

    def normal(self, split: Split | None = None) -> "Films":
        """The "No Finding" films, of this split or of all. Unlabelled films are not among them."""
        return self._part(
            lambda r: r.findings == frozenset() and (split is None or r.split == split)
        )

    def abnormal(self, split: Split | None = None) -> "Films":
        """The films with a finding, of this split or of all."""
        return self._part(lambda r: bool(r.findings) and (split is None or r.split == split))

    def _part(self, belongs: Callable[[Exam], bool]) -> "Films":
        return Films(self.cohort, [exam for exam in self._exams if belongs(exam)])

    def to_dataframe(self) -> Any:
        """A pandas DataFrame, a row a film: image_id, patient_id, split, findings, flags, and every
        field of the record in its unit. Raises UserError without pandas."""
        rows = [
            {
                "image_id": r.image_id,
                "patient_id": r.patient_id,
                "split": r.split,
                "findings": None if r.findings is None else "|".join(sorted(r.findings)),
                "flags": "; ".join(r.flags),
                **r.ehr,
            }
            for r in self._exams
        ]
        return need_pandas().DataFrame(rows)

    def __repr__(self) -> str:
        return f"Films({self.name!r}, {len(self)} films)"


def open(*films: str, fields_file: str | Path | None = None) -> Films:
    """The films of one or more sources, as written on the command line: "table:films.csv".

    `fields_file`: YAML file with further record fields. Every row is read and checked, and no film
    is decoded. Raises UserError naming file, row and column.
    """
    file = None if fields_file is None else Path(fields_file)
    return Films(Cohort(list(films), known_fields(file)))


class Model:
    """A fitted method that scores films. Made by `load` and `fit`."""

    def __init__(self, resident: Resident, folder: Path | None = None) -> None:
        self._resident, self._folder = resident, folder

    @property
    def name(self) -> str:
        """ "auto", the name of a shipped model, or the folder that it was loaded from."""
        return self._resident.name

    @property
    def fields(self) -> Mapping[str, EhrField]:
        """The record fields that may be given, with their units and ranges."""
        return self._resident.fields

    def __repr__(self) -> str:
        return f"Model({self.name!r})"

    @overload
    def predict(
        self,
        films: str | Path | bytes | Exam,
        *,
        ehr: Mapping[str, Any] | None = None,
        batch_size: int = 16,
        value_range: tuple[float, float] | None = None,
        bright: Bright = "dense",
    ) -> Prediction: ...
    @overload
    def predict(
        self,
        films: Films | list[Any],
        *,
        ehr: Any = None,
        batch_size: int = 16,
        value_range: tuple[float, float] | None = None,
        bright: Bright = "dense",
    ) -> Predictions: ...
    @overload
    def predict(
        self,
        films: Any,
        *,
        ehr: Any = None,
        batch_size: int = 16,
        value_range: tuple[float, float] | None = None,
        bright: Bright = "dense",
    ) -> Any: ...
    def predict(
        self,
        films: Any,
        *,
        ehr: Any = None,
        batch_size: int = 16,
        value_range: tuple[float, float] | None = None,
        bright: Bright = "dense",
    ) -> Prediction | Predictions:
        """How far each film is from normal for its patient: a Prediction, or Predictions of many.

        `films`: a path (DICOM, PNG, JPEG), its bytes, a NumPy or torch array (h, w), a pydicom
        Dataset, a PIL image, an Exam; or a list of these, or what `open` gives.
        `ehr`: what is known of the patient in the units of `fields` or with a unit,
        {"age": 63, "sex": "M", "weight": "180 lb"}; of several films one mapping for all, a list
        of mappings, or a pandas or polars data frame with a row a film. It goes before what a
        DICOM header says.
        `value_range`: black and white of an array (default: that of 8- and 16-bit numbers, 0 to 1
        of floats); `bright`: "dense" where bone is white, "air" in a negative.

        A score never depends on the other films or on `batch_size`. A single film that is
        refused or cannot be read raises UserError; of several, its row says so.
        """
        if batch_size < 1:
            raise UserError(f"batch_size {batch_size}: give 1 or more")
        how: dict[str, Any] = {"value_range": value_range, "bright": bright}
        if is_one_film(films) or not isinstance(films, Iterable):
            row = ehr_rows(ehr, 1, self.fields)[0]
            exam = exam_of(films, 0, row, self.fields, **how)
            result = self._predicted([exam], batch_size)[0]
            if result.refused:
                raise UserError(f"{result.image_id}: {result.refused}")
            return result
        many = films if isinstance(films, Films) else list(films)
        if isinstance(many, Films) and ehr is not None:
            raise UserError("ehr: goes with files and arrays; what `open` gives has its own")
        rows = ehr_rows(ehr, len(many), self.fields)
        exams = [exam_of(f, i, rows[i], self.fields, **how) for i, f in enumerate(many)]
        return Predictions(self._predicted(exams, batch_size))

    def _predicted(self, exams: Sequence[Exam], batch_size: int) -> list[Prediction]:
        ids = [exam.image_id for exam in exams]
        if len(set(ids)) < len(ids):
            twice = next(name for name in ids if ids.count(name) > 1)
            raise UserError(f"film {twice!r} is there twice; give films of different names")
        names = [self._resident.name_for(exam) for exam in exams]
        entries: dict[str, Prediction] = {}
        for name in dict.fromkeys(names):
            loaded = self._resident.loaded(name)
            own = [exam for exam, model in zip(exams, names, strict=True) if model == name]
            entries |= self._by(loaded, own, batch_size)
        return [entries[name] for name in ids]

    def _by(self, loaded: Loaded, exams: Sequence[Exam], batch_size: int) -> dict[str, Prediction]:
        with tempfile.TemporaryDirectory(prefix="nofinding-") as folder:
            scorer = Scorer(
                model=loaded.model,
                name=loaded.name,
                films=Selection(exams),
                batch_size=batch_size,
                gatekeeper=loaded.gatekeeper,
                # What was decoded of a patient's film is not left behind.
                cache=FilmCache(Path(folder)),
                fields=dict(self.fields),
                seed=self._resident.seed,
                phantom=False,
                single=False,
                unreadable="list",
                count_work=False,
                maps=None,
                known=loaded.known,
            )
            numbers = range(len(scorer))
            entries: dict[str, Prediction] = {}
            for number in tracked(numbers, "scoring") if len(numbers) > 4 else numbers:
                all_exams = scorer.exams(number)
                entry, admitted, scores = scorer.scored(number)
                places = {row: place for place, row in enumerate(admitted)}
                for row, (exam, film) in enumerate(zip(all_exams, entry["films"], strict=True)):
                    place = places.get(row)
                    entries[exam.image_id] = prediction(loaded, exam, film, scores, place)
            return entries

    def save(self, folder: str | Path) -> Path:
        """Copies the model into a folder that must not hold one yet, and gives that folder.

        Raises UserError where the model is not one folder ("auto" is two), or the folder is taken.
        """
        import shutil

        from nofinding.storage.atomic import whole_or_not

        if self._folder is None:
            raise UserError("save: 'auto' stands for two models; load('adult') is one")
        out = Path(folder)
        if out.exists() and any(out.iterdir()):
            raise UserError(f"save {out}: is not empty; choose another folder")
        without = shutil.ignore_patterns("training")
        with whole_or_not(out, "save") as partial:
            shutil.copytree(self._folder, partial, ignore=without, dirs_exist_ok=True)
        return out


def prediction(
    loaded: Loaded, exam: Exam, film: Mapping[str, Any], scores: Any, place: int | None
) -> Prediction:
    """What the entry of a film and its row of the scores say."""
    meta, detector = loaded.model.meta, loaded.model.detector
    about: dict[str, Any] = {
        "image_id": exam.image_id,
        "flags": tuple(film.get("flags", exam.flags)),
        "method": detector.name,
        "supervision": str(detector.supervision),
        "model": Path(loaded.name).name,
        "sha256": loaded.model.sha256,
        "exam": exam,
        "size": detector.image_size,
        "aspect": meta["aspect"],
    }
    if place is None:
        reason = film.get("unreadable") or film.get("reason") or "was not scored"
        return Prediction(score=float("nan"), p_value=None, refused=reason, **about)
    cell = loaded.calibrator(
        np.array([film["score"]]), [exam.image_id], [Stratum(*film["stratum"])]
    )[0]
    if "remark" in cell:  # how far the calibration films reach
        about["flags"] += tuple(cell["remark"].split("; "))
    return Prediction(
        score=film["score"],
        p_value=float(cell["p_value"]) if cell["p_value"] else None,
        stratum=cell.get("stratum", ""),
        anomaly_map=_square(scores.anomaly_map, place),
        reconstruction=None
        if scores.reconstruction is None
        else ((_square(scores.reconstruction, place) + 1) / 2).clip(0, 1),
        threshold=meta.get("map_threshold"),
        components=film["parts"],
        **about,
    )


def _square(maps: Any, place: int) -> Any:
    return None if maps is None else maps[place, 0].float().numpy()


def load(
    model: str | Path = AUTO,
    *,
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    gate: GateMode = "refuse",
    fields_file: str | Path | None = None,
    seed: int = 0,
) -> Model:
    """A model that scores films: "adult" or "paediatric" from the package, or a folder of `fit`.

    "auto" takes the paediatric model for patients under 10 years and the adult one for others.
    `gate`: what to do with what is no upright frontal chest film: refuse it, flag it, or do not
    look ("off"). `seed`: of the noise, drawn for each film by itself. Raises UserError where
    there is no such model, or it is damaged.
    """
    name = str(model)
    file = None if fields_file is None else Path(fields_file)
    resident = Resident(name, accelerator=accelerator, fields_file=file, seed=seed, gate=gate)
    folder = None if name == AUTO else model_folder(name)
    return Model(resident, folder)


def fit(
    method: str,
    films: Films,
    *,
    out: str | Path | None = None,
    preset: str = "small",
    seed: int = 0,
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto",
    cache: str | Path | None = None,
    calibrate: Literal["auto", "val", "train", "none"] = "auto",
    gate: Literal["auto", "none"] = "auto",
    twins: TwinCheck = "refuse",
    **options: Any,
) -> Model:
    """A model that has learnt from the normal films of split train, calibrated and ready.

    `films`: what `open` gives, or a part of it. Normal films of split val calibrate the p-values;
    where there are none, 15 % of the training patients are held out for that. `out`: folder for
    the model; default: a temporary one that lives as long as the model (`save` copies it).
    `twins`: what becomes of calibration films that are altered copies of training films, "refuse",
    "report" or "skip".
    `options` are fields of the method's configuration, checked as on the command line
    (`methods()[method].config`). Raises UserError for anything wrong, before training starts.
    """
    info = listing()[method]
    config = info.configure(preset, **options)
    holder = tempfile.TemporaryDirectory(prefix="nofinding-") if out is None else None
    folder = Path(holder.name) / "model" if holder is not None else Path(str(out))
    selection = FitOptions(
        films=list(films.cohort.specs),
        out=folder,
        preset=preset,
        seed=seed,
        accelerator=accelerator,
        cache=None if cache is None else Path(cache),
        calibrate=calibrate,
        gate=gate,
        twins=twins,
    )
    run_fit(method, config, selection, films.cohort.part(list(films)))
    model = load(folder, accelerator=accelerator, seed=seed)
    model.__dict__["_holder"] = holder  # the folder goes when the model goes
    return model


@dataclass(frozen=True, kw_only=True)
class EvaluationReport:
    """How well scores tell abnormal films from normal ones; every number with its interval."""

    metrics: Mapping[str, Any] = field(repr=False)
    """All that metrics.json holds."""
    page: str = field(repr=False)
    """report.html, one file that fetches nothing."""

    @property
    def _row(self) -> Mapping[str, Any]:
        row: Mapping[str, Any] = self.metrics["rows"][0]
        return row

    def _estimate(self, name: str) -> tuple[float, tuple[float, float]]:
        result = self._row["metrics"][name]
        return float(result["value"]), (float(result["low"]), float(result["high"]))

    @property
    def auroc(self) -> float:
        """Area under the receiver operating characteristic, 0 to 1."""
        return self._estimate("auroc")[0]

    @property
    def auroc_interval(self) -> tuple[float, float]:
        """95 % interval of `auroc`, patients resampled."""
        return self._estimate("auroc")[1]

    @property
    def average_precision(self) -> float:
        """Area under precision over recall, 0 to 1; compare with `prevalence`."""
        return self._estimate("ap")[0]

    @property
    def average_precision_interval(self) -> tuple[float, float]:
        """95 % interval of `average_precision`, patients resampled."""
        return self._estimate("ap")[1]

    @property
    def prevalence(self) -> float:
        """Share of the films that are abnormal."""
        return float(self.metrics["films"]["prevalence"])

    @property
    def n_normal(self) -> int:
        """Normal films."""
        return int(self.metrics["films"]["normal"])

    @property
    def n_abnormal(self) -> int:
        """Abnormal films."""
        return int(self.metrics["films"]["abnormal"])

    def to_dict(self) -> dict[str, Any]:
        """All numbers, as JSON can hold them."""
        return dict(self.metrics)

    def save(self, folder: str | Path) -> Path:
        """Writes report.html and metrics.json into a folder, and gives the path of the former."""
        import json

        from nofinding.storage.atomic import write_atomic

        out = Path(folder)
        write_atomic(out / "report.html", self.page.encode())
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"
        write_atomic(out / "metrics.json", text.encode())
        return out / "report.html"

    def __repr__(self) -> str:
        low, high = self.auroc_interval
        return (
            f"EvaluationReport(auroc={self.auroc:.3f} ({low:.3f} to {high:.3f}), "
            f"{self.n_normal} normal, {self.n_abnormal} abnormal)"
        )

    def _repr_html_(self) -> str:
        """For notebooks: AUROC and AP with their intervals."""
        rows = ""
        for label, name in (("AUROC", "auroc"), ("AP", "ap")):
            value, (low, high) = self._estimate(name)
            rows += f"<tr><th>{label}</th><td>{value:.3f} ({low:.3f} to {high:.3f})</td></tr>"
        counts = f"{self.n_normal} normal, {self.n_abnormal} abnormal films"
        return f"<div>{counts}<table>{rows}</table><small>{NOTICE}</small></div>"


def evaluate(
    predictions: Predictions,
    films: Films,
    *,
    split: Split | None = None,
    baselines: bool = False,
    bootstrap: int = 2000,
    seed: int = 0,
    twins: TwinCheck = "refuse",
) -> EvaluationReport:
    """How well these scores tell the abnormal films from the normal ones.

    `films` have the labels; `split`: judge only films of this part. `baselines`: also fit the
    baselines that a method must beat to the normal training films of `films`. `bootstrap`: draws
    of patients for the intervals. `twins`: what becomes of altered copies of training or
    calibration films, "refuse", "report" or "skip". Raises UserError for scores that do not
    fit the films, where no normal or no abnormal film is among them, and for films that the model
    was trained on.
    """
    if bootstrap < 100:
        raise UserError(f"bootstrap {bootstrap}: give 100 or more")
    part = {r.image_id for r in films if split is None or r.split == split}
    rows = [row for row in predictions if row.image_id in part]
    if not rows:
        raise UserError(f"evaluate: none of the {len(predictions)} predictions is of these films")
    cohort, fields = films.cohort, known_fields(None)
    with tempfile.TemporaryDirectory(prefix="nofinding-") as folder:
        out = Path(folder)
        metrics = assess(
            write_predictions(out, rows, seed),
            list(films),
            out / "report",
            name=cohort.name,
            phantom=cohort.phantom,
            train_normals=normals(list(films), "train"),
            fields=[fields[name] for name in cohort.offers if name in fields],
            cache=cache_at(None),
            seed=seed,
            bootstrap=bootstrap,
            baselines="all" if baselines else "none",
            twins=twins,
        )
        page = (out / "report" / "report.html").read_text(encoding="utf-8")
    return EvaluationReport(metrics=metrics, page=page)


@dataclass(frozen=True, kw_only=True)
class MethodInfo:
    """A method that can be fitted."""

    name: str
    summary: str
    """What it does, in one line."""
    paper: str
    """Where it comes from."""
    supervision: str
    """What it is told about disease: "normal-only", ..."""
    presets: tuple[str, ...]
    """Named sets of its options."""
    config: type = field(repr=False)
    """The dataclass of its options; each is documented there."""

    def configure(self, preset: str = "small", **options: Any) -> Any:
        """The options of a preset, some of them changed. Raises UserError for an unknown one."""
        known = METHODS[self.name].PRESETS
        if preset not in known:
            raise UserError(f"preset {preset!r}: {self.name} has {', '.join(known)}")
        config = known[preset]
        for name in options:
            if name not in config.__dataclass_fields__:
                there = ", ".join(config.__dataclass_fields__)
                raise UserError(f"{name!r}: is no option of {self.name}, which has {there}")
        return replace(config, **options)


class Methods(Mapping[str, MethodInfo]):
    """Every method by name. A table in a notebook."""

    @cached_property
    def _all(self) -> dict[str, MethodInfo]:
        return {
            name: MethodInfo(
                name=name,
                summary=cls.summary,
                paper=cls.paper,
                supervision=str(cls.supervision),
                presets=tuple(cls.PRESETS),
                config=cls.Config,
            )
            for name, cls in METHODS.items()
        }

    def __getitem__(self, name: str) -> MethodInfo:
        if name not in self._all:
            raise UserError(f"method {name!r}: is not one of {', '.join(self._all)}")
        return self._all[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    def __contains__(self, name: object) -> bool:
        return name in self._all

    def to_dataframe(self) -> Any:
        """A pandas DataFrame, a row a method. Raises UserError without pandas."""
        rows = [
            {"name": m.name, "summary": m.summary, "supervision": m.supervision, "paper": m.paper}
            for m in self._all.values()
        ]
        return need_pandas().DataFrame(rows)

    def __repr__(self) -> str:
        return "\n".join(f"{m.name:18} {m.summary}" for m in self._all.values())

    def _repr_html_(self) -> str:
        import html

        rows = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"
            for cells in ((m.name, m.summary, m.supervision) for m in self._all.values())
        )
        head = "<tr><th>method</th><th>what it does</th><th>supervision</th></tr>"
        return f"<table>{head}{rows}</table>"


def listing() -> Methods:
    """Every method that can be fitted, by name."""
    return Methods()


def sources() -> dict[str, str]:
    """What `open` reads: the name before the colon, and what it stands for."""
    return {name: source.summary for name, source in SOURCES.items()}


@dataclass(frozen=True, kw_only=True)
class BenchReport:
    """Many methods on the same films, under the same rules."""

    path: Path
    """report.html; results.csv, results.json and table.tex lie beside it."""

    def to_dataframe(self) -> Any:
        """A pandas DataFrame, a row for each cohort and method, with intervals. Raises UserError
        without pandas."""
        return need_pandas().read_csv(self.path.with_name("results.csv"))


def bench(
    films: Sequence[str],
    *,
    methods: str | Sequence[str] = "all",
    out: str | Path,
    **options: Any,
) -> BenchReport:
    """Fits and judges methods on the same films. The same call goes on where it stopped.

    `films`: sources, as in `open`; each is a cohort of its own. `methods`: names, with ":preset"
    behind if wanted. `options` are those of `nofinding bench` (seeds, split, most, matched, ...).
    Raises UserError before the first method is fitted.
    """
    known = BenchOptions.__dataclass_fields__
    for name in options:
        if name not in known:
            raise UserError(f"{name!r}: is no option of bench, which has {', '.join(known)}")
    names = methods if isinstance(methods, str) else ",".join(methods)
    selection = BenchOptions(films=list(films), methods=names, out=Path(out), **options)
    return BenchReport(path=run_bench(selection))
