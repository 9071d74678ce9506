"""The gate: which films a model may score at all, learnt from its normal films alone.

Three questions, cheapest first. Is it blank or pure noise? Does a linear classifier on frozen
features, taught on the normal films and on spoilt copies of them, take it for a spoilt one? Are
its features far from every normal film's (Mahalanobis distance with a pooled, shrunk covariance:
Lee et al., NeurIPS 2018; Ledoit and Wolf 2004)? Disease is none of these: see docs/gate.md.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from nofinding.data.batch import Films
from nofinding.errors import UserError
from nofinding.gate.corruptions import REASONS, SPOILT, UPRIGHT
from nofinding.gate.drift import Coordinates
from nofinding.gate.feature_extractor import FeatureExtractor, Look

__all__ = ["GATE_LEAST", "MOST", "Gate", "Verdict", "fit_gate"]

GATE_LEAST = 50
"""Normal films that a gate takes."""
MOST = 400
"""Films of each source that it looks at; more teach it nothing new."""
FOLDS = 4
FLAT = 1e-4  # a feature that varies less says nothing
STRENGTH = 0.01  # inverse of the penalty on the classifier's weights
UPRIGHT_LEAST = 0.05
"""A film whose probability of being upright and whole is below this is refused."""
MARGIN = 1.5
"""The limit of the distance, over the one that 99 % of unseen normal films stay below."""
BLANK = 0.02  # contrast, in grey levels of [0, 1]
NOISE = 0.6  # correlation of neighbouring pixels; that of films is above 0.9

UNLIKE = "is unlike the normal films that the gate knows, and may be no frontal chest film"


class Verdict(NamedTuple):
    """What the gate says of a film."""

    reason: str  # empty: it may be scored
    upright: float  # probability that it is upright and whole
    distance: float  # from the normal films, in units of their spread


@dataclass(frozen=True)
class Gate:
    """A fitted gate. Tensors by name, and the limit."""

    tensors: Mapping[str, Tensor]
    limit: float
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def coordinates(self) -> Coordinates:
        """Where a film lies among the normal ones: for the drift test."""
        return Coordinates(*(self.tensors[f"place.{name}"] for name in Coordinates._fields))

    def judge(self, features: Look) -> list[Verdict]:
        """A verdict on each film."""
        t = self.tensors
        logits = ((features.grid - t["mean"]) / t["std"]).double() @ t["weight"].T + t["bias"]
        chance = logits.softmax(dim=1)
        spoilt = chance[:, 1:].argmax(dim=1) + 1
        far = torch.stack(
            [distance(features.pooled, c, t["precision"]) for c in t["centres"]], dim=1
        )
        return [
            Verdict(
                self._reason(features.of([i]), float(chance[i, 0]), far[i], int(spoilt[i])),
                float(chance[i, 0]),
                float(far[i, 0]),
            )
            for i in range(len(features.grid))
        ]

    def _reason(self, features: Look, upright: float, far: Float[Tensor, " c"], spoilt: int) -> str:
        if float(features.plain[0, 1]) < BLANK:
            return "is blank (one grey all over)"
        if float(features.correlation[0]) < NOISE:
            return "is noise (neighbouring pixels have nothing in common)"
        if upright >= UPRIGHT_LEAST:
            return UNLIKE if far[0] > self.limit else ""
        # Named only where it also looks like such films: a photograph is no turned chest.
        return REASONS[spoilt] if far[spoilt] <= self.limit else UNLIKE

    def to_meta(self) -> dict[str, Any]:
        """All but the tensors, for JSON."""
        return {"limit": self.limit, "upright_least": UPRIGHT_LEAST, **self.about}

    @classmethod
    def from_stored(cls, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> Self:
        """What `tensors` and `to_meta` held."""
        return cls(tensors, float(meta["limit"]), meta)


def distance(
    pooled: Float[Tensor, "n c"], centres: Float[Tensor, "g c"], precision: Float[Tensor, "c c"]
) -> Float[Tensor, " n"]:
    """Mahalanobis distance to the nearest centre, over the square root of the dimension."""
    apart = pooled[:, None].double() - centres.double()
    squares = torch.einsum("ngc,cd,ngd->ng", apart, precision.double(), apart)
    return (squares.amin(dim=1) / pooled.shape[1]).clamp_min(0).sqrt()


def fit_gate(
    groups: Sequence[Films], *, seed: int = 0, extractor: FeatureExtractor | None = None
) -> Gate:
    """Learns from normal films, `groups` of one source each, prepared by `gate_films`.

    Up to MOST films of a group are looked at, drawn by `seed`. Raises UserError where a group has
    fewer than GATE_LEAST.
    """
    for films in groups:
        if len(films) < GATE_LEAST:
            raise UserError(f"an input gate takes {GATE_LEAST} normal films; here are {len(films)}")
    extractor = extractor or FeatureExtractor()
    rng = np.random.default_rng(seed)
    drawn = [np.sort(rng.permutation(len(films))[:MOST]).tolist() for films in groups]
    images = [films.batch(rows).image for films, rows in zip(groups, drawn, strict=True)]
    group = torch.cat([torch.full((len(x),), i) for i, x in enumerate(images)])
    image = torch.cat(images)
    upright = [extractor(_changed(image, change)) for change in UPRIGHT]
    spoilt = [(label, extractor(_changed(image, change))) for label, change in SPOILT]
    labelled = [(0, look) for look in upright] + spoilt
    plain = upright[0]
    tensors = _classifier(labelled) | {
        "centres": torch.stack([_class_centres(labelled, group, c) for c in range(len(REASONS))]),
        "precision": _precision(plain.pooled, group),
        **{f"place.{k}": v for k, v in Coordinates.of(plain)._asdict().items()},
    }
    about = {"films": [len(rows) for rows in drawn], "seed": seed}
    return Gate(tensors, MARGIN * _unseen_distance(plain.pooled, group), about)


def _changed(image: Float[Tensor, "n 1 s s"], change: Any) -> Float[Tensor, "n 1 s s"]:
    return torch.stack([change(film, index) for index, film in enumerate(image)])


def _classifier(labelled: Sequence[tuple[int, Look]]) -> dict[str, Tensor]:
    """A penalised logistic regression on the standardised grid: which class a film is of."""
    from sklearn.linear_model import LogisticRegression

    grid = torch.cat([look.grid for _, look in labelled])
    label = np.concatenate([np.full(len(look.grid), c) for c, look in labelled])
    std, mean = torch.std_mean(grid, dim=0, correction=0)
    std = std.clamp_min(FLAT)
    fitted = LogisticRegression(C=STRENGTH, max_iter=500).fit(((grid - mean) / std).numpy(), label)
    return {
        "mean": mean,
        "std": std,
        "weight": torch.from_numpy(np.asarray(fitted.coef_, dtype=np.float64)),
        "bias": torch.from_numpy(np.asarray(fitted.intercept_, dtype=np.float64)),
    }


def _class_centres(
    labelled: Sequence[tuple[int, Look]], group: Int[Tensor, " n"], label: int
) -> Float[Tensor, "g c"]:
    """Of each group, the mean of the films of one class; all copies that belong to it."""
    same = [look.pooled for c, look in labelled if c == label]
    return torch.stack([_centres(pooled, group) for pooled in same]).mean(dim=0)


def _centres(pooled: Float[Tensor, "n c"], group: Int[Tensor, " n"]) -> Float[Tensor, "g c"]:
    return torch.stack([pooled[group == g].mean(0) for g in range(int(group.max()) + 1)])


def _precision(pooled: Float[Tensor, "n c"], group: Int[Tensor, " n"]) -> Float[Tensor, "c c"]:
    """Inverse of the covariance within the groups, shrunk as Ledoit and Wolf say."""
    from sklearn.covariance import LedoitWolf

    within = (pooled - _centres(pooled, group)[group]).double().numpy()
    covariance = LedoitWolf(assume_centered=True).fit(within).covariance_
    return torch.from_numpy(np.linalg.inv(covariance)).float()


def _unseen_distance(pooled: Float[Tensor, "n c"], group: Int[Tensor, " n"]) -> float:
    """The distance that 99 % of the films stay below, each measured from the other folds."""
    fold = torch.arange(len(pooled)) % FOLDS
    distances = []
    for k in range(FOLDS):
        rest, own = fold != k, fold == k
        precision = _precision(pooled[rest], group[rest])
        distances.append(distance(pooled[own], _centres(pooled[rest], group[rest]), precision))
    return float(torch.cat(distances).quantile(0.99))
