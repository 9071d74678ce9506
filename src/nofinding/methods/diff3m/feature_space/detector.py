"""How unusual a film's features are, and whether there is a lesion in one place: the default.

Features come from a backbone taught on painted anomalies (`synthetic`), lesions from a network
taught on ones painted into lungs (`focal`). Beside them, on request, stand distances in frozen
features and a repair: the three parts of Diff3M (Kim et al., MICCAI 2025) on a grid of features
instead of pixels, noise prediction, masked generation behind two checkerboards and image-EHR
cross-attention. What judges the whole film is averaged in units of its spread over normal films
(the distances' over films that they were not fitted on) and combined with what is focal, as
surprises among normal films. Where the patient's record makes normal films likelier, features are
judged against those expected of this patient, and how little film and record fit is a surprise of
its own. docs/diff3m-f.md tells more.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from nofinding.data.batch import Films
from nofinding.data.ehr import EhrStats
from nofinding.errors import UserError
from nofinding.functional.features.gaussian import Gaussian, distance, fit_gaussian, out_of_fold
from nofinding.functional.image.combining import combined, quantiles, surprise
from nofinding.functional.noise import generators
from nofinding.methods.base.protocol import Notes
from nofinding.methods.diff3m.detection import with_steps
from nofinding.methods.diff3m.detector import DEMOGRAPHICS
from nofinding.methods.diff3m.feature_space.config import (
    NO_FOCAL,
    OF_FOCAL,
    OF_TAUGHT,
    PARTS,
    STEPS,
    Diff3MFConfig,
)
from nofinding.methods.diff3m.feature_space.films import features_of_films, folds
from nofinding.methods.diff3m.feature_space.networks import FeatureNetworks
from nofinding.methods.diff3m.feature_space.patient import PatientNorm
from nofinding.methods.diff3m.feature_space.repair import FeatureRepair, size_of_repair
from nofinding.methods.diff3m.feature_space.views import DISTANCES
from nofinding.methods.frozen_features.adapting import OfGaussians
from nofinding.methods.frozen_features.lesion_evidence import (
    NODULE,
    above_normal,
    lesion_evidence,
    normal_lesions,
)
from nofinding.runtime import Runtime
from nofinding.training import TrainConfig, TrainingRun
from nofinding.types import Batch, Scores, Supervision

__all__ = ["Diff3MF", "Diff3MFConfig"]

RECORD = "record"


class Diff3MF(OfGaussians):
    """What judges the whole film, and what is focal; the more surprising, the higher."""

    name: ClassVar[str] = "diff3m-f"
    summary: ClassVar[str] = "How unusual the whole film is, and whether one place shows a lesion"
    paper: ClassVar[str] = "after Kim et al., MICCAI 2025; ours"
    notes: ClassVar[Notes] = Notes(
        paper="Ours, after Diff3M: no paper of its own.",
        program="There is none beside this one.",
        ours=(
            "Distances from normal films and the evidence of a network taught by painted "
            "anomalies, combined by Fisher's method with the lesions that a second network finds; "
            "given the record where that makes held-out normal films likelier; on request "
            "Diff3M's networks on a grid of whitened features (docs/diff3m-f.md)."
        ),
    )
    Config: ClassVar[type[Diff3MFConfig]] = Diff3MFConfig
    PRESETS: ClassVar[Mapping[str, Diff3MFConfig]] = {
        "tiny": Diff3MFConfig(
            image_size=128,
            backbone="imagenet",
            focal=NO_FOCAL,
            parts=PARTS,
            channels=8,
            width=8,
            train=TrainConfig(steps=12, batch_size=8, lr=1e-3, warmup=2, checkpoint_every=6),
        ),
        "small": Diff3MFConfig(),
        "with-repair": Diff3MFConfig(parts=PARTS),
        "image-only": Diff3MFConfig(record="none"),
        "imagenet": Diff3MFConfig(backbone="imagenet", focal=NO_FOCAL, parts=PARTS),
    }
    supervision: ClassVar[Supervision] = Supervision.NORMAL_ONLY
    RULES: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "all": {"parts": PARTS},
        "repair": {"parts": ("repair",), "detect": "repair"},
        "inversion": {"parts": ("repair",), "detect": "inversion"},
        "distances": {"parts": DISTANCES},
        "evidence": {"parts": ("evidence",)},
        "focal": {"parts": ("focal",)},
        "record": {"parts": ("record",)},
    }

    def __init__(self, config: Diff3MFConfig, stats: EhrStats) -> None:
        self.config, self.stats = config, stats
        if config.image_size < 128 or config.image_size % 32:
            raise UserError(f"image_size {config.image_size}: give a multiple of 32, 128 or more")
        if not config.parts or not set(config.parts) <= set(PARTS):
            raise UserError(f"parts {config.parts}: give some of {', '.join(PARTS)}")
        self.net = nn.ModuleDict()
        self.networks = FeatureNetworks(config, self.net)
        names = [f.name for f in stats.fields]
        columns = list(range(len(names))) if config.record == "full" else []
        if config.record == "demographics":
            columns = [i for i, name in enumerate(names) if name in DEMOGRAPHICS]
        self.columns = [i for i in columns if stats.known[i]]
        self.parts = self._available()
        self.repair = FeatureRepair(config, stats, self.columns, self.net)
        self.patient = PatientNorm(self.columns, [len(f.categories) for f in stats.fields])
        self.fitted = False
        self.gaussians: dict[str, Gaussian] = {}
        self.scale: dict[str, Tensor] = {}

    def _available(self) -> list[str]:
        """The parts asked for, without those that need what is not there. Raises UserError where
        none is left."""
        c, networks = self.config, self.networks
        missing = (() if networks.taught else OF_TAUGHT) + (() if networks.focussed else OF_FOCAL)
        missing += () if self.columns and c.conditioning != "none" else (RECORD,)
        parts: list[str] = [part for part in c.parts if part not in missing]
        if not parts:
            raise UserError(
                f"parts {c.parts}: need a taught backbone, this is {c.backbone}, the focal "
                f"network, this is {c.focal}, or a record and conditioning, this is "
                f"{c.conditioning}"
            )
        return parts

    @property
    def uses_ehr(self) -> bool:
        """Whether the record changes the score."""
        given = self.patient.active if self.fitted else self.config.conditioning != "none"
        return bool(self.columns) and (given or "repair" in self.parts)

    @property
    def fields_used(self) -> tuple[str, ...]:
        """Record fields that may change the score."""
        return tuple(self.stats.fields[i].name for i in self.columns if self.uses_ehr)

    @property
    def decided(self) -> Mapping[str, Any]:
        """Whether the score follows the record, and what decided it."""
        return self.patient.decided(self.config.conditioning)

    @property
    def image_size(self) -> int:
        """Side of the films it takes, in pixels."""
        return self.config.image_size

    @property
    def network_calls(self) -> int:
        """Calls of a network a film: the backbone (once more mirrored), and the repair's."""
        c = self.config
        repair = c.noise_level if c.detect == "inversion" else 2 * c.noise_level
        return 1 + c.mirror + repair * ("repair" in self.parts)

    @classmethod
    def with_rule(cls, config: Diff3MFConfig, rule: str | None, steps: int) -> Diff3MFConfig:
        """The config with a rule of RULES, and `steps` kept levels (0: as they are)."""
        if rule is not None:
            config = replace(config, **cls.RULES[rule])
        return with_steps(config, steps, STEPS, least=1)

    @property
    def runtime(self) -> Runtime:
        """How the networks are run when films are scored."""
        return self.networks.runtime

    @runtime.setter
    def runtime(self, runtime: Runtime) -> None:
        for part in (self.networks, self.repair):
            part.runtime = runtime
            part.prepared.clear()

    def _see(self, image: Tensor) -> dict[str, Tensor]:
        features = self.networks.see(image)
        if self.networks.taught:
            features["evidence"] = _evidence(features)
        return features

    def _features(self, batch: Batch) -> dict[str, Tensor]:
        """What the networks say, given the record where it counts, and the misfit of the two."""
        features = self._see(batch.image)
        if not self.patient.active:
            return features
        misfit = self.patient.misfit(features, batch)
        return {**self.patient.given(features, batch), RECORD: misfit}

    def fit(self, normal: Films, *, seed: int = 0, job: TrainingRun | None = None) -> Self:
        """Learns normal features in a few minutes. Raises UserError for fewer than 20 films."""
        different = len(set(normal.ids))  # a film may be repeated, to balance sources
        if different < 20:
            raise UserError(f"diff3m-f: {different} normal films; give 20 or more")
        self.networks.load_weights()
        job = job or TrainingRun()
        chance = generators(seed, ["films"])[0]
        indices = torch.randperm(len(normal), generator=chance).tolist()[: self.config.most]
        repaired = "repair" in self.parts
        features, moved = features_of_films(
            self._see, normal, indices, self.config, seed, maps=repaired, progress=job.progress
        )
        raw, fold = dict[str, Tensor](), folds([normal.ids[i] for i in indices])
        if repaired:
            raw["repair"], self.scale["cells"] = self.repair.fit(
                normal, indices, features["maps"], moved.get("maps"), seed=seed, job=job
            )
        self.gaussians, self.parts = {}, self._available()
        features, misfit = self._fit_patient(features, moved, normal, indices, fold)
        if misfit is not None:
            raw[RECORD] = misfit
        for name in DISTANCES:
            if name in features:
                self.gaussians[name] = fit_gaussian(features[name], moved.get(name))
                raw[name] = out_of_fold(features[name], moved.get(name), fold).log()
        if self.networks.taught:
            raw["evidence"] = features["evidence"]
            self.scale["where.mean"] = features["where"].mean(0)
            self.scale["where.spread"] = features["where"].std(0).clamp_min(0.3)
        if self.networks.focussed:
            self.scale |= normal_lesions(features["places"], features["highest"])
            raw["focal"] = lesion_evidence(features["highest"], self.scale)
            raw["nodule"] = features["highest"][:, NODULE]
        for name, values in raw.items():
            self.scale[f"{name}.mean"] = values.mean()
            self.scale[f"{name}.spread"] = values.std().clamp_min(1e-6)
        parts = {k: self._standard(k, v) for k, v in raw.items()}
        kinds = _kinds(parts, self.parts)
        if len(kinds) > 1:
            self.scale |= {f"{kind}.quantiles": quantiles(x) for kind, x in kinds.items()}
        self.fitted = True
        return self

    def _fit_patient(
        self,
        features: dict[str, Tensor],
        moved: Mapping[str, Tensor],
        normal: Films,
        indices: Sequence[int],
        fold: Int64[Tensor, " n"],
    ) -> tuple[dict[str, Tensor], Float[Tensor, " n"] | None]:
        """Features given the record, and its misfit, of films that were held out; the features as
        they are, and None, where the record is not known, not asked for or of no use."""
        how = self.config.conditioning
        given, misfit = features, None
        if self.columns and how != "none":
            ehr, known = normal.ehr_rows(indices)
            given, misfit = self.patient.fit(
                features, moved, ehr, known, fold, always=how == "normative"
            )
        if misfit is None and RECORD in self.parts:
            self.parts.remove(RECORD)
            self._require_parts("the record makes no held-out film likelier")
        return given, misfit

    @torch.no_grad()
    def score(self, batch: Batch, *, seed: int = 0) -> Scores:
        """The parts, each in standard deviations of normal films, as one; a map; attention."""
        if not self.fitted:
            raise UserError("diff3m-f: not fitted yet; fit it, or load a model")
        return self._judged(self._features(batch), batch)

    def _judged(self, calls: Mapping[str, Tensor], batch: Batch) -> Scores:
        raw: dict[str, Tensor] = {}
        shown: list[Tensor] = []
        weights = torch.zeros_like(batch.ehr)
        if "repair" in self.parts:
            cells, weights = self.repair.repaired(calls["maps"], batch)
            raw["repair"] = size_of_repair(cells)
            shown.append(cells / self.scale["cells"] - 1)
        for name, of in self.gaussians.items():
            if name in self.parts:
                raw[name] = distance(calls[name], of).log()
        if "evidence" in self.parts:
            raw["evidence"] = calls["evidence"]
        if "focal" in self.parts:
            raw["focal"] = lesion_evidence(calls["highest"], self.scale)
        if "nodule" in self.parts:
            raw["nodule"] = calls["highest"][:, NODULE]
        if RECORD in self.parts:
            raw[RECORD] = calls[RECORD]
        if self.networks.taught:
            above = calls["where"][:, 0] - self.scale["where.mean"][0]
            shown.append(above / self.scale["where.spread"][0])
        parts = {k: self._standard(k, v) for k, v in raw.items()}
        score = self._as_one(parts)
        for i in self.columns if "repair" in self.parts else ():
            parts[f"attention.{self.stats.fields[i].name}"] = weights[:, i]
        places = self._cells(shown, calls)
        if places is None:
            return Scores(score=score, components=parts)
        map_ = F.interpolate(places, size=batch.image.shape[-2:], mode="bicubic").clamp_min(0)
        return Scores(score=score, anomaly_map=map_, components=parts)

    def _cells(self, shown: Sequence[Tensor], calls: Mapping[str, Tensor]) -> Tensor | None:
        """The map's cells (b, 1, n, n): the mean of the coarse maps, and what is focal upon it."""
        coarse = torch.stack([part.clamp_min(0) for part in shown]).mean(0) if shown else None
        if not self.networks.focussed:
            return None if coarse is None else coarse[:, None]
        fine = above_normal(calls["places"], self.scale).clamp_min(0)[:, None]
        if coarse is None:
            return fine
        around = F.interpolate(coarse[:, None], size=fine.shape[-2:], mode="bilinear")
        return (around + fine) / 2

    def _as_one(self, parts: Mapping[str, Tensor]) -> Float[Tensor, " b"]:
        """The score: the mean of the general parts, what is focal and the record's misfit,
        combined as asked."""
        kinds, how = _kinds(parts, self.parts), self.config.combine
        if len(kinds) < 2 or how == "mean":
            return torch.stack([parts[name] for name in self.parts]).mean(0)
        surprises = [surprise(x, self.scale[f"{kind}.quantiles"]) for kind, x in kinds.items()]
        return combined(torch.stack(surprises), how)

    def _standard(self, name: str, values: Tensor) -> Tensor:
        return (values - self.scale[f"{name}.mean"]) / self.scale[f"{name}.spread"]

    def state(self) -> dict[str, Tensor]:
        """Repair, Gaussians and scales. The shipped backbone is named by its hash, any other taught
        one is in it."""
        if not self.fitted:
            return {}
        out = self.repair.state() | self.patient.state()
        for name, of in self.gaussians.items():
            out |= {f"gaussian.{name}.{k}": v for k, v in of._asdict().items()}
        out |= {f"scale.{k}": v for k, v in self.scale.items()}
        return out | self.networks.state()

    def _require_parts(self, why: str) -> None:
        if not self.parts:
            raise UserError(f"diff3m-f: {why}")

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes what `state` gave. Raises UserError where the shipped backbone is another now."""
        self.fitted = bool(state)
        if not state:
            return
        under = _by_prefix(state)
        there = {
            "repair": "repair" in under,
            "nodule": "nodule.mean" in under["scale"],
            RECORD: "slope" in under.get(RECORD, {}),
        }
        for name in [name for name in self.parts if not there.get(name, True)]:
            self.parts.remove(name)  # the model was fitted without
        self._require_parts("this model holds no repair; fit one with --preset with-repair")
        self.networks.load_state(state, under)
        self.repair.load_state(under)
        self.patient.load_state(under)
        self.gaussians = {
            name: Gaussian(under["gaussian"][f"{name}.mean"], under["gaussian"][f"{name}.whiten"])
            for name in DISTANCES
            if f"{name}.mean" in under["gaussian"]
        }
        self.scale = under["scale"]


def _kinds(parts: Mapping[str, Tensor], among: Sequence[str]) -> dict[str, Tensor]:
    """What is combined: the mean of the parts that judge the film as a whole, and each other."""
    alone = ("focal", "nodule", RECORD)
    whole = [parts[name] for name in among if name in parts and name not in alone]
    kinds = {"general": torch.stack(whole).mean(0)} if whole else {}
    return kinds | {name: parts[name] for name in alone if name in among and name in parts}


def _evidence(features: Mapping[str, Tensor]) -> Float[Tensor, " b"]:
    """The taught network's logits of "anything anywhere" and of the mean cell, averaged."""
    cell = features["where"].sigmoid().mean(dim=(1, 2, 3)).clamp(1e-4, 1 - 1e-4).logit()
    return (features["film"] + cell) / 2


def _by_prefix(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """{"a.b": x} as {"a": {"b": x}}."""
    under: dict[str, dict[str, Tensor]] = {}
    for name, value in state.items():
        first, _, rest = name.partition(".")
        under.setdefault(first, {})[rest] = value
    return under
