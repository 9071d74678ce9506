"""A baseline of every table: what the principal components of normal films leave over.

Pearson 1901; as a detector of faults, the Q statistic of Jackson and Mudholkar 1979; of faces,
the "distance from face space" of Turk and Pentland 1991. A linear autoencoder, solved exactly.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Self

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from nofinding.data.batch import Films
from nofinding.data.ehr import EhrStats
from nofinding.errors import UserError
from nofinding.functional.image.residual import max_abs, mse, residual_map
from nofinding.methods.base.protocol import Notes, WithoutRecord
from nofinding.ranges import Checked, Range
from nofinding.training import TrainingRun
from nofinding.types import Batch, Scores, Supervision

__all__ = ["PCA", "PCAConfig", "principal"]

BATCH = 64


def principal(
    x: Float64[Tensor, "n d"], count: int
) -> tuple[Float64[Tensor, " d"], Float64[Tensor, "count d"]]:
    """The mean, and the `count` orthonormal directions in which the rows differ most.

    The sign of a direction means nothing: its largest entry is made positive, so that it is the
    same on every machine.
    """
    mean = x.mean(0)
    directions = torch.linalg.svd(x - mean, full_matrices=False).Vh[:count]
    largest = directions.gather(1, directions.abs().argmax(dim=1, keepdim=True))
    return mean, directions * largest.sign()


@dataclass(frozen=True, kw_only=True)
class PCAConfig(Checked):
    """How finely one looks, and how much counts as normal variation."""

    image_size: Annotated[int, Range(1)] = 64
    """Side of the film, in pixels."""
    components: Annotated[int, Range(1)] = 32
    """Principal components that the normal films may vary along; fewer than there are films."""


class PCA(WithoutRecord):
    """The mean squared residual of the film outside the normal films' principal components."""

    name: ClassVar[str] = "pca"
    summary: ClassVar[str] = "What the principal components of normal films leave over"
    paper: ClassVar[str] = "Jackson and Mudholkar 1979; Turk and Pentland 1991 (a baseline)"
    notes: ClassVar[Notes] = Notes(
        paper="The squared residual outside the principal components tells whether an observation "
        "belongs to the population that they were taken from (the Q statistic; for pictures the "
        "distance from face space).",
        program="There is none; the tests compare components and projections with scikit-learn's "
        "PCA.",
        ours="Pixels of 64 x 64 films, centred and not scaled; 32 components, a number that "
        "nobody published for chest films. The singular value decomposition is exact and in double "
        "precision.",
    )
    Config: ClassVar[type] = PCAConfig
    PRESETS: ClassVar[Mapping[str, PCAConfig]] = {
        "tiny": PCAConfig(image_size=32, components=4),
        "small": PCAConfig(),
    }
    supervision: ClassVar[Supervision] = Supervision.NORMAL_ONLY

    def __init__(self, config: PCAConfig, stats: EhrStats) -> None:
        if config.components >= config.image_size**2:
            raise UserError(
                f"components {config.components}: give 1 to "
                f"{config.image_size**2 - 1}, less than the pixels of a film"
            )
        self.config, self.stats = config, stats
        self.learnt: dict[str, Tensor] = {}

    @property
    def network_calls(self) -> int:
        """None: there is no network."""
        return 0

    def fit(self, normal: Films, *, seed: int = 0, job: TrainingRun | None = None) -> Self:
        """Takes the components. Raises UserError unless there are more films than components."""
        count, components = len(normal), self.config.components
        if count <= components:
            raise UserError(
                f"pca: {count} normal films; {components} components need {components + 1}"
            )
        starts = range(0, count, BATCH)
        parts = [normal.batch(range(s, min(s + BATCH, count))).image for s in starts]
        greys = (torch.cat(parts).flatten(1).double() + 1) / 2
        mean, directions = principal(greys, components)
        self.learnt = {"mean": mean.float(), "directions": directions.float().contiguous()}
        return self

    @torch.no_grad()
    def score(self, batch: Batch, *, seed: int = 0) -> Scores:
        """Score and parts are in grey levels of [0, 1], as is the map |x - x'|; the normal film x'
        is the projection on to the components."""
        if not self.learnt:
            raise UserError("pca: not fitted yet; fit it, or load a model")
        x = (batch.image.cpu() + 1) / 2
        # In double: a matrix product rounds differently for another number of rows.
        mean, directions = self.learnt["mean"].double(), self.learnt["directions"].double()
        centred = x.flatten(1).double() - mean
        projected: Float[Tensor, "b 1 h w"] = (
            (mean + centred @ directions.T @ directions).float().reshape(x.shape)
        )
        parts = {"mse": mse(x, projected), "max_abs": max_abs(x, projected)}
        return Scores(
            score=parts["mse"],
            anomaly_map=residual_map(x, projected),
            reconstruction=(projected * 2 - 1).clamp(-1, 1),
            components=parts,
        )

    def state(self) -> dict[str, Tensor]:
        """The mean film and the components."""
        return dict(self.learnt)

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes what `state` gave."""
        self.learnt = dict(state)
