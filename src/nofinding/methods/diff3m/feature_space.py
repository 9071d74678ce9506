"""How unusual a film's features are, and whether there is a lesion in one place: the default.

Features come from a backbone taught on painted anomalies (`synthetic`), lesions from a network
taught on ones painted into lungs (`focal`). Beside them, on request, stand distances in frozen
features and a repair: the three parts of Diff3M (Kim et al., MICCAI 2025) on a grid of features
instead of pixels, noise prediction, masked generation behind two checkerboards and image-EHR
cross-attention. What judges the whole film is averaged in units of its spread over normal films
(the distances' over films that they were not fitted on) and combined with what is focal, as
surprises among normal films. docs/diff3m-f.md tells more.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal, Self, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from rich.console import Console
from rich.progress import track
from torch import Generator, Tensor, nn

from nofinding.data.batch import Films
from nofinding.data.ehr import EhrStats
from nofinding.errors import UserError
from nofinding.functional.diffusion.schedule import linear_abar, respace
from nofinding.functional.features.gaussian import Gaussian, distance, fit_gaussian, out_of_fold
from nofinding.functional.features.whiten import Whitening, fit_whitening, whitened
from nofinding.functional.image.combining import Combination, combined, quantiles, surprise
from nofinding.functional.noise import generators
from nofinding.functional.synthetic.acquisition import exposure, place, placement
from nofinding.methods.base.protocol import Notes
from nofinding.methods.diff3m.config import Diff3MConfig
from nofinding.methods.diff3m.detection import (
    Call,
    by_level,
    detect_as_paper,
    encode_as_paper,
    encoder_conditioning,
    with_steps,
)
from nofinding.methods.diff3m.detector import DEMOGRAPHICS
from nofinding.methods.diff3m.losses import losses
from nofinding.methods.diff3m.network import Answer, Diff3MNet
from nofinding.methods.diff3m.views import (
    DISTANCES,
    IMAGENET,
    Views,
    chest_weights,
    focal_weights,
    see,
)
from nofinding.methods.frozen_features.adapting import OfGaussians
from nofinding.methods.frozen_features.lesion_evidence import (
    above_normal,
    condensed,
    lesion_evidence,
    normal_lesions,
)
from nofinding.nets.chest import STRIDE, ChestNet
from nofinding.nets.external_backbones import load_features
from nofinding.nets.feature_maps import FeatureMaps
from nofinding.nets.focal import WIDTHS, FocalNet
from nofinding.ranges import Range, require_ranges
from nofinding.runtime import Network, Runtime, device_of
from nofinding.training import TrainConfig, TrainingRun, train
from nofinding.types import Batch, Scores, Supervision

__all__ = ["Diff3MF", "Diff3MFConfig"]

Part = Literal["repair", "texture", "context", "taught", "evidence", "pattern", "focal"]
PARTS: tuple[Part, ...] = (
    "repair",
    "texture",
    "context",
    "taught",
    "evidence",
    "pattern",
    "focal",
)
OF_TAUGHT, OF_FOCAL = ("taught", "evidence"), ("pattern", "focal")
SCORED: tuple[Part, ...] = ("taught", "evidence", "focal")
STEPS = 1000  # T, the number of noise levels in training
LARGE = ("maps", "places")  # kept in half precision while a model is fitted
NO_FOCAL, SHIPPED = "none", "shipped"
CELLS = 4  # one film in so many, of those that pooled features are moved of, also shows its cells
FOLDS = 5
"""Parts of the training films; the spread of a distance is that of films in none of its own."""


@dataclass(frozen=True, kw_only=True)
class Diff3MFConfig:
    """What is looked at, how it is repaired, and what makes the score."""

    image_size: int = 224
    """Side of the film, in pixels: a multiple of 32."""
    backbone: str = "chest"
    """chest: features of the shipped network, taught on painted anomalies. imagenet: of
    EfficientNet-Lite0 as it is. timm:NAME-or-FOLDER, transformers:NAME-or-FOLDER: of a network
    whose weights you have (DINOv2, RAD-DINO), untaught. Else the folder of your own fitted
    `synthetic` model."""
    layers: tuple[int, int, int] = (5, 8, 11)
    """Of a timm or transformers backbone: the layers whose maps give the texture, both texture
    and the repair, and the context. Their numbers are as in `mahalanobis`."""
    mirror: bool = True
    """Average the features with those of the mirrored film."""
    parts: tuple[Part, ...] = SCORED
    """What makes the score, of repair, texture, context, taught, evidence, pattern, focal. taught
    and evidence need a taught backbone, and are left out with imagenet; pattern and focal need
    the focal network. repair, the one part that reads the record, is fitted only if it is here."""
    focal: str = "shipped"
    """The network that finds lesions: shipped, in the package; none; else the folder of your own
    fitted `focal` model."""
    combine: Combination = "fisher"
    """How what the focal network finds is put together with the mean of all other parts: fisher,
    tippett or harmonic, of their surprise among normal films; mean: as one more part of it."""
    most: Annotated[int, Range(20, 10**9)] = 1500
    """Films at most that features are kept of; of more, a random choice."""
    copied: Annotated[int, Range(0, 10**9)] = 400
    """Films at most that are seen again under another exposure and position, to learn what these
    do to the features."""
    nuisance: Annotated[float, Range(0, 100)] = 2.0
    """How strongly directions are held back in which acquisition moves the features: its changes
    count as if they were this many times as large. 0: not at all."""
    channels: int = 48
    """Whitened features of a cell that are repaired."""
    record: Literal["full", "demographics", "none"] = "full"
    """What of the record conditions the repair: all fields; age, sex and view; or nothing."""
    width: int = 48
    """Channels of the repairing network at the full grid."""
    multipliers: tuple[int, ...] = (1, 1)
    """Channels of each level, in units of `width`."""
    respacing: str = "ddim10"
    """Levels kept for detection, as in diff3m."""
    noise_level: int = 3
    """L, how far features are encoded, in kept levels (3 of 10 is t = 300 of 1000)."""
    blind_encoding: bool = True
    """Encode as if nothing were known of the patient, and decode with the record."""
    detect: Literal["repair", "inversion"] = "repair"
    """repair: what does not come back. inversion: the noise that encoding takes; half the calls."""
    drop_record: float = 0.1
    """Share of training films whose whole record is hidden."""
    drop_entry: float = 0.1
    """Share of the other training films' entries that are hidden."""
    balance: float = 0.67
    """lambda of eq. 4: loss = lambda * noise loss + (1 - lambda) * regeneration loss."""
    compact: bool = True
    """Keep the repairing network's weights in bfloat16: half the file. They are rounded before
    anything is calibrated."""
    batch_size: Annotated[int, Range(1, 10**6)] = 16
    """Films at a time when features are taken."""
    train: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            steps=800, batch_size=32, lr=1e-3, warmup=50, ema=0.995, checkpoint_every=100
        )
    )
    """Training of the repairing network."""

    def __post_init__(self) -> None:
        require_ranges(self)


class FeatureFilms:
    """Whitened features in place of films, as the training loop takes them."""

    def __init__(
        self, maps: Float[Tensor, "k c n n"], films: Films, indices: Sequence[int]
    ) -> None:
        self.maps, self.size, self.stats = maps, maps.shape[-1], films.stats
        self.ids = tuple(films.ids[i] for i in indices)
        self.ehr, self.known = films.ehr_rows(indices)

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, indices: Sequence[int]) -> Batch:
        """These films' features, where a batch has its image, and their records."""
        rows = list(indices)
        ids = tuple(self.ids[i] for i in rows)
        return Batch(self.maps[rows].float(), self.ehr[rows], self.known[rows], ids)


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
            "on request Diff3M's networks on a grid of whitened features (docs/diff3m-f.md)."
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
    }

    def __init__(self, config: Diff3MFConfig, stats: EhrStats) -> None:
        self.config, self.stats = config, stats
        own = config.backbone.startswith(("timm:", "transformers:"))
        self.taught = config.backbone != IMAGENET and not own
        if config.image_size < 128 or config.image_size % 32:
            raise UserError(f"image_size {config.image_size}: give a multiple of 32, 128 or more")
        if not config.parts or not set(config.parts) <= set(PARTS):
            raise UserError(f"parts {config.parts}: give some of {', '.join(PARTS)}")
        self.focussed = config.focal != NO_FOCAL
        missing = (() if self.taught else OF_TAUGHT) + (() if self.focussed else OF_FOCAL)
        self.parts = [p for p in config.parts if p not in missing]
        if not self.parts:
            raise UserError(
                f"parts {config.parts}: need a taught backbone, this is {config.backbone}, or the "
                f"focal network, this is {config.focal}"
            )
        names = [f.name for f in stats.fields]
        columns = list(range(len(names))) if config.record == "full" else []
        if config.record == "demographics":
            columns = [i for i, name in enumerate(names) if name in DEMOGRAPHICS]
        self.columns = [i for i in columns if stats.known[i]]
        self.abar, self.levels = self._schedule()
        self.net = nn.ModuleDict({"eyes": self._new_backbone(), "repair": self._new_repair()})
        if self.focussed:
            self.net["focal"] = self._new_focal()
        if own:
            self.net["own"] = load_features(config.backbone, config.layers)
        self.fitted = False
        self.whitening: Whitening | None = None
        self.gaussians: dict[str, Gaussian] = {}
        self.scale: dict[str, Tensor] = {}
        self.sha, self.focal_sha = "", ""
        self._runtime, self._ready = Runtime(), dict[str, Network]()

    def _schedule(self) -> tuple[Tensor, Tensor]:
        c = self.config
        try:
            levels = respace(STEPS, c.respacing)
        except ValueError as error:
            raise UserError(f"respacing {c.respacing!r}: {error}") from error
        if not 1 <= c.noise_level < len(levels):
            raise UserError(f"noise_level {c.noise_level}: give 1 to {len(levels) - 1}")
        return linear_abar(STEPS)[levels], levels

    def _new_backbone(self, hidden: int = 64) -> ChestNet:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return ChestNet(self.config.image_size, hidden).requires_grad_(False).eval()

    def _new_focal(self, widths: Sequence[int] = WIDTHS) -> FocalNet:
        """Shares ImageNet's blocks with the backbone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            net = FocalNet(widths, self.backbone.lite).requires_grad_(False).eval()
        return net.to(device_of(self.backbone))

    def _new_repair(self) -> Diff3MNet:
        """Diff3M's own network, on a grid of features; first weights from torch's generator."""
        c = self.config
        shape = Diff3MConfig(
            image_size=c.image_size // STRIDE,
            width=c.width,
            multipliers=c.multipliers,
            attention_at=(c.image_size // STRIDE // 2,),
            norm_groups=max(1, min(8, c.width // 4)),
            diffusion_steps=STEPS,
            record="full" if self.columns else "none",
        )
        categories = [len(f.categories) for f in self.stats.fields]
        groups = [self.columns] if self.columns else []
        return Diff3MNet(shape, groups, categories, channels=c.channels)

    @property
    def uses_ehr(self) -> bool:
        """Whether the record changes the score."""
        return bool(self.columns) and "repair" in self.parts

    @property
    def fields_used(self) -> tuple[str, ...]:
        """Record fields that the repair may attend to."""
        return tuple(self.stats.fields[i].name for i in self.columns if self.uses_ehr)

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
        return self._runtime

    @runtime.setter
    def runtime(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._ready.clear()

    @property
    def backbone(self) -> ChestNet:
        """The backbone."""
        net = self.net["eyes"]
        assert isinstance(net, ChestNet)
        return net

    @property
    def focal(self) -> FocalNet | None:
        """The network that finds lesions, if any."""
        net = self.net["focal"] if self.focussed else None
        assert net is None or isinstance(net, FocalNet)
        return net

    @property
    def repair(self) -> Diff3MNet:
        """The diffusion network."""
        net = self.net["repair"]
        assert isinstance(net, Diff3MNet)
        return net

    def _see(self, image: Tensor) -> dict[str, Tensor]:
        if "eyes" not in self._ready:
            self._ready["eyes"] = self._runtime.prepare(self._views())
        device, names = next(self.backbone.parameters()).device, self._views().names
        calls = see(self._ready["eyes"], image.to(device), names)
        if "lesions" in calls:
            calls["places"], calls["highest"] = condensed(calls.pop("lesions"))
        return {k: v.cpu() for k, v in calls.items()}

    def _views(self) -> Views:
        c = self.config
        own = dict(self.net.items()).get("own")
        assert own is None or isinstance(own, FeatureMaps)
        return Views(self.backbone, taught=self.taught, mirror=c.mirror, focal=self.focal, own=own)

    @torch.no_grad()
    def _features(
        self, films: Films, indices: Sequence[int], seed: int, *, progress: bool
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Features of the films as they are, and what another acquisition changes in them.

        Pooled features see exposure and position changed; maps, whose cells must stay where they
        are, the exposure alone, and of fewer films, for each has many cells.
        """
        c, size = self.config, self.config.batch_size
        plain: list[dict[str, Tensor]] = []
        pooled: list[dict[str, Tensor]] = []
        cells: list[dict[str, Tensor]] = []
        starts = range(0, len(indices), size)
        for start in track(starts, "features", disable=not progress, console=Console(stderr=True)):
            batch = films.batch(indices[start : start + size])
            film = (batch.image + 1) / 2
            features = self._see(batch.image)
            if "repair" not in self.parts:
                del features["maps"]
            plain.append({k: v.half() if k in LARGE else v for k, v in features.items()})
            rows = generators(seed, [f"copy/{name}" for name in batch.ids])
            if start < c.copied:
                other = self._see(exposure(place(film, placement(rows)), rows) * 2 - 1)
                pooled.append(
                    {k: c.nuisance * (other[k] - features[k]) for k in DISTANCES if k in features}
                )
            if "repair" in self.parts and start * CELLS < c.copied:
                other = self._see(exposure(film, rows) * 2 - 1)
                cells.append({"maps": (c.nuisance * (other["maps"] - features["maps"])).half()})
        return _joined(plain), _joined(pooled) | _joined(cells)

    def loss(self, net: nn.Module, batch: Batch, rows: Sequence[Generator]) -> dict[str, Tensor]:
        """Noise loss and regeneration loss of Diff3M (eq. 4), on features."""
        assert isinstance(net, Diff3MNet)
        return losses(net, batch, rows, linear_abar(STEPS), self.config)

    def fit(self, normal: Films, *, seed: int = 0, job: TrainingRun | None = None) -> Self:
        """Learns normal features in a few minutes. Raises UserError for fewer than 20 films."""
        different = len(set(normal.ids))  # a film may be repeated, to balance sources
        if different < 20:
            raise UserError(f"diff3m-f: {different} normal films; give 20 or more")
        if self.taught:
            state, self.sha = chest_weights(self.config.backbone)
            self._load_backbone(state)
        if self.focussed:
            state, self.focal_sha = focal_weights(self.config.focal)
            self._load_focal(state)
        job = job or TrainingRun()
        chance = generators(seed, ["films"])[0]
        indices = torch.randperm(len(normal), generator=chance).tolist()[: self.config.most]
        features, moved = self._features(normal, indices, seed, progress=job.progress)
        raw, fold = dict[str, Tensor](), _folds([normal.ids[i] for i in indices])
        if "repair" in self.parts:
            raw["repair"] = self._fit_repair(normal, indices, features, moved, seed=seed, job=job)
        for name in DISTANCES:
            if name in features:
                self.gaussians[name] = fit_gaussian(features[name], moved.get(name))
                raw[name] = out_of_fold(features[name], moved.get(name), fold).log()
        if self.taught:
            raw["evidence"] = _evidence(features)
            self.scale["where.mean"] = features["where"].mean(0)
            self.scale["where.spread"] = features["where"].std(0).clamp_min(0.3)
        if self.focussed:
            self.scale |= normal_lesions(features["places"], features["highest"])
            raw["focal"] = lesion_evidence(features["highest"], self.scale)
        for name, values in raw.items():
            self.scale[f"{name}.mean"] = values.mean()
            self.scale[f"{name}.spread"] = values.std().clamp_min(1e-6)
        parts = {k: self._standard(k, v) for k, v in raw.items()}
        if self.focussed:
            general = _general(parts, self.parts)
            if general is not None:
                self.scale["general.quantiles"] = quantiles(general)
            self.scale["focal.quantiles"] = quantiles(parts["focal"])
        self.fitted = True
        return self

    def _fit_repair(
        self,
        normal: Films,
        indices: Sequence[int],
        calls: Mapping[str, Tensor],
        moved: Mapping[str, Tensor],
        *,
        seed: int,
        job: TrainingRun,
    ) -> Float[Tensor, " n"]:
        """Trains the repairing network; the size of its repair of every training film."""
        whitening = self.whitening = fit_whitening(
            calls["maps"], self.config.channels, moved.get("maps")
        )
        parts = [
            whitened(part.float(), whitening).half()
            for part in calls["maps"].chunk(len(indices) // 64 + 1)
        ]
        message = FeatureFilms(torch.cat(parts), normal, indices)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net["repair"] = self._new_repair().to(device_of(self.backbone))
        train(self.repair, self.loss, cast(Films, message), self.config.train, seed=seed, job=job)
        if self.config.compact:
            self.repair.load_state_dict(_rounded(self.repair.state_dict()))
        self._ready.clear()
        return self._all_repairs(message)

    @torch.no_grad()
    def _all_repairs(self, films: FeatureFilms) -> Float[Tensor, " n"]:
        """log of the repair's size for every training film; keeps the mean of each cell."""
        rows, cells = [], []
        for start in range(0, len(films), 64):
            batch = films.batch(range(start, min(start + 64, len(films))))
            cell, _ = self._repaired(batch.image, batch)
            rows.append(_size(cell))
            cells.append(cell.mean(0) * len(batch.ids))
        self.scale["cells"] = torch.stack(cells).sum(0) / len(films)
        return torch.cat(rows)

    def _call(self, context: Tensor | None, *, regenerate: bool) -> Call:
        key = f"repair {regenerate}"
        if key not in self._ready:
            self._ready[key] = self._runtime.prepare(Answer(self.repair, regenerate))
        levels = self.levels.to(next(self.repair.parameters()).device, torch.float32)
        return by_level(self._ready[key], levels, context, regenerates=regenerate)

    @torch.no_grad()
    def _repaired(self, z: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Squared change of every cell (b, n, n), and the attention on each field."""
        c, net = self.config, self.repair.eval()
        device = next(net.parameters()).device
        z = z.to(device)
        context, weights = net.attend(z, batch.ehr.to(device), batch.known.to(device))
        conditioning = encoder_conditioning(context, blind=c.blind_encoding)
        encode = self._call(conditioning, regenerate=False)
        if c.detect == "inversion":
            latent, _ = encode_as_paper(encode, z, self.abar, c.noise_level)
            # Each step of the way is deterministic; a normal film's latent has unit variance.
            return latent.square().mean(1).cpu(), weights.cpu()
        decode = self._call(context, regenerate=True)
        again = detect_as_paper(decode, encode, z, self.abar, c.noise_level)
        return (z - again).square().mean(1).cpu(), weights.cpu()

    @torch.no_grad()
    def score(self, batch: Batch, *, seed: int = 0) -> Scores:
        """The parts, each in standard deviations of normal films, as one; a map; attention."""
        if not self.fitted:
            raise UserError("diff3m-f: not fitted yet; fit it, or load a model")
        return self._judged(self._see(batch.image), batch)

    def _judged(self, calls: Mapping[str, Tensor], batch: Batch) -> Scores:
        raw: dict[str, Tensor] = {}
        shown: list[Tensor] = []
        weights = torch.zeros_like(batch.ehr)
        if "repair" in self.parts and self.whitening is not None:
            cells, weights = self._repaired(whitened(calls["maps"], self.whitening), batch)
            raw["repair"] = _size(cells)
            shown.append(cells / self.scale["cells"] - 1)
        for name, of in self.gaussians.items():
            if name in self.parts:
                raw[name] = distance(calls[name], of).log()
        if "evidence" in self.parts:
            raw["evidence"] = _evidence(calls)
        if "focal" in self.parts:
            raw["focal"] = lesion_evidence(calls["highest"], self.scale)
        if self.taught:
            above = calls["where"][:, 0] - self.scale["where.mean"][0]
            shown.append(above / self.scale["where.spread"][0])
        parts = {k: self._standard(k, v) for k, v in raw.items()}
        score = self._as_one(parts)
        for i in self.columns if self.uses_ehr else ():
            parts[f"attention.{self.stats.fields[i].name}"] = weights[:, i]
        places = self._cells(shown, calls)
        if places is None:
            return Scores(score=score, components=parts)
        map_ = F.interpolate(places, size=batch.image.shape[-2:], mode="bicubic").clamp_min(0)
        return Scores(score=score, anomaly_map=map_, components=parts)

    def _cells(self, shown: Sequence[Tensor], calls: Mapping[str, Tensor]) -> Tensor | None:
        """The map's cells (b, 1, n, n): the mean of the coarse maps, and what is focal upon it."""
        coarse = torch.stack([part.clamp_min(0) for part in shown]).mean(0) if shown else None
        if not self.focussed:
            return None if coarse is None else coarse[:, None]
        fine = above_normal(calls["places"], self.scale).clamp_min(0)[:, None]
        if coarse is None:
            return fine
        around = F.interpolate(coarse[:, None], size=fine.shape[-2:], mode="bilinear")
        return (around + fine) / 2

    def _as_one(self, parts: Mapping[str, Tensor]) -> Float[Tensor, " b"]:
        """The score: the mean of the general parts and what is focal, combined as asked."""
        general, how = _general(parts, self.parts), self.config.combine
        if "focal" not in self.parts or general is None or how == "mean":
            return torch.stack([parts[name] for name in self.parts]).mean(0)
        both = [
            surprise(general, self.scale["general.quantiles"]),
            surprise(parts["focal"], self.scale["focal.quantiles"]),
        ]
        return combined(torch.stack(both), how)

    def _standard(self, name: str, values: Tensor) -> Tensor:
        return (values - self.scale[f"{name}.mean"]) / self.scale[f"{name}.spread"]

    def _load_backbone(self, state: Mapping[str, Tensor]) -> None:
        hidden = len(state.get("norm.weight", self.backbone.norm.weight))
        if hidden != len(self.backbone.norm.weight):  # your own `synthetic` may have another head
            self.net["eyes"] = self._new_backbone(hidden).to(device_of(self.backbone))
        try:
            self.backbone.load_learnt(dict(state))
        except RuntimeError as error:
            raise UserError(
                f"backbone {self.config.backbone}: was taught at another image_size than "
                f"{self.config.image_size}, or is no synthetic model"
            ) from error
        self._ready.clear()

    def _load_focal(self, state: Mapping[str, Tensor]) -> None:
        net = self._new_focal(_widths_of(state))
        try:
            net.load_learnt(state)
        except RuntimeError as error:
            raise UserError(f"focal {self.config.focal}: is no focal model") from error
        self.net["focal"] = net
        self._ready.clear()

    def state(self) -> dict[str, Tensor]:
        """Repair, Gaussians and scales. The shipped backbone is named by its hash, any other taught
        one is in it."""
        if not self.fitted:
            return {}
        out: dict[str, Tensor] = {}
        if self.whitening is not None:
            repair = self.repair.state_dict()
            stored = _halved(repair) if self.config.compact else repair
            out |= {f"repair.{k}": v for k, v in stored.items()}
            out |= {f"whitening.{k}": v for k, v in self.whitening._asdict().items()}
        for name, of in self.gaussians.items():
            out |= {f"gaussian.{name}.{k}": v for k, v in of._asdict().items()}
        out |= {f"scale.{k}": v for k, v in self.scale.items()}
        if self.config.backbone == "chest":
            out["chest"] = torch.tensor(list(bytes.fromhex(self.sha)), dtype=torch.uint8)
        elif self.taught:
            out |= {f"eyes.{k}": v for k, v in self.backbone.learnt().items()}
        if "own" in self.net:
            out["own"] = torch.tensor(self.net["own"].fingerprint)
        if self.focal is not None:
            if self.config.focal == SHIPPED:
                out["lesions"] = torch.tensor(
                    list(bytes.fromhex(self.focal_sha)), dtype=torch.uint8
                )
            else:
                out |= {f"focal.{k}": v for k, v in self.focal.learnt().items()}
        return out

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes what `state` gave. Raises UserError where the shipped backbone is another now."""
        self.fitted = bool(state)
        if not state:
            return
        under = _by_prefix(state)
        if "repair" in self.parts and "repair" not in under:
            self.parts.remove("repair")  # the model was fitted without
            if not self.parts:
                raise UserError(
                    "diff3m-f: this model holds no repair; fit one with --preset with-repair"
                )
        if "chest" in state:
            weights, self.sha = chest_weights("chest")
            if bytes(state["chest"].tolist()).hex() != self.sha:
                raise UserError("the model was fitted with another chest backbone than this one")
            self._load_backbone(weights)
        elif self.taught:
            self._load_backbone(under["eyes"])
        if "own" in self.net and int(state["own"]) != self.net["own"].fingerprint:
            raise UserError(
                f"backbone {self.config.backbone}: has other weights than those the model was "
                "fitted with"
            )
        if "lesions" in state:
            weights, self.focal_sha = focal_weights(SHIPPED)
            if bytes(state["lesions"].tolist()).hex() != self.focal_sha:
                raise UserError("the model was fitted with another focal network than this one")
            self._load_focal(weights)
        elif self.focussed:
            self._load_focal(under["focal"])
        self.whitening = None
        if "repair" in under:
            self.repair.load_state_dict(under["repair"])
            self.whitening = Whitening(**under["whitening"])
        self.gaussians = {
            name: Gaussian(under["gaussian"][f"{name}.mean"], under["gaussian"][f"{name}.whiten"])
            for name in DISTANCES
            if f"{name}.mean" in under["gaussian"]
        }
        self.scale = under["scale"]
        self._ready.clear()


def _general(parts: Mapping[str, Tensor], among: Sequence[str]) -> Tensor | None:
    """The mean of the parts that judge the film as a whole; None where there are none."""
    whole = [parts[name] for name in among if name in parts and name != "focal"]
    return torch.stack(whole).mean(0) if whole else None


def _size(cells: Float[Tensor, "b n n"]) -> Float[Tensor, " b"]:
    return cells.mean(dim=(1, 2)).clamp_min(1e-12).log()


def _evidence(features: Mapping[str, Tensor]) -> Float[Tensor, " b"]:
    """The taught network's logits of "anything anywhere" and of the mean cell, averaged."""
    cell = features["where"].sigmoid().mean(dim=(1, 2, 3)).clamp(1e-4, 1 - 1e-4).logit()
    return (features["film"] + cell) / 2


def _widths_of(state: Mapping[str, Tensor]) -> tuple[int, ...]:
    """The widths that a focal network was built with, as its weights have them."""
    firsts = (state.get(f"unet.down.{level}.first.weight") for level in range(len(WIDTHS)))
    return tuple(WIDTHS[i] if w is None else len(w) for i, w in enumerate(firsts))


def _halved(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.bfloat16() if v.dtype == torch.float32 else v for k, v in state.items()}


def _rounded(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.to(state[k].dtype) for k, v in _halved(state).items()}


def _folds(ids: Sequence[str]) -> Int64[Tensor, " n"]:
    """FOLDS parts of the films, in turn. A film that is repeated is in one of them only."""
    number = {name: i for i, name in enumerate(dict.fromkeys(ids))}
    return torch.tensor([number[name] % FOLDS for name in ids])


def _joined(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The same features of all films; nothing of no parts."""
    return {k: torch.cat([part[k] for part in parts]) for k in (parts[0] if parts else ())}


def _by_prefix(state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """{"a.b": x} as {"a": {"b": x}}."""
    under: dict[str, dict[str, Tensor]] = {}
    for name, value in state.items():
        first, _, rest = name.partition(".")
        under.setdefault(first, {})[rest] = value
    return under
