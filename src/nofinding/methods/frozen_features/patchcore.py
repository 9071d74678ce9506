"""PatchCore: a film is as abnormal as its patch that is least like any remembered normal patch.

Roth, Pemula, Zepeda, Schoelkopf, Brox and Gehler, CVPR 2022, arXiv:2106.08265.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Self

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from nofinding.data.batch import Films
from nofinding.errors import UserError
from nofinding.functional.features.neighbourhoods import (
    enlarge,
    join,
    neighbourhoods,
    pool_channels,
    rows,
)
from nofinding.functional.features.neighbours import k_centre, nearest, random_projection
from nofinding.functional.noise import generators
from nofinding.methods.base.frozen_backbone import WRN50, Frozen, FrozenConfig
from nofinding.methods.base.protocol import Notes
from nofinding.ranges import Range
from nofinding.training import TrainingRun
from nofinding.training.ticker import Ticker
from nofinding.types import Batch, Scores, Supervision

__all__ = ["PatchCore", "PatchCoreConfig"]


@dataclass(frozen=True, kw_only=True)
class PatchCoreConfig(FrozenConfig):
    """What a patch is, how many are remembered, and how they are compared."""

    neighbourhood: int = 3
    """Cells across, odd, that a patch feature sums up."""
    dimension: Annotated[int, Range(0)] = 0
    """Numbers that describe a patch, the same for each layer (the paper: 1024); 0: all channels."""
    candidates: Annotated[int, Range(1)] = 40_000
    """About how many patches, spread evenly over the films, the memory is chosen from: bounds both
    time and memory."""
    coreset: Annotated[float, Range(above=0, high=1)] = 0.05
    """Share of the candidates that is remembered, above 0 to 1."""
    memory: Annotated[int, Range(1)] = 2_000
    """No more than this many patches are remembered."""
    projection: Annotated[int, Range(0)] = 64
    """Dimensions in which the memory is chosen, by random projection; 0: all."""
    neighbours: int = 9
    """Patches of the memory that judge how usual the nearest one is (b of eq. 7); 0: none, the
    score is the largest distance as it is."""
    sigma: Annotated[float, Range(0)] = 4.0
    """Blur of the map, in pixels."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.neighbourhood < 1 or self.neighbourhood % 2 == 0:
            raise UserError(f"neighbourhood {self.neighbourhood}: give 1, 3, 5, ...")
        if self.neighbours < 0 or self.neighbours == 1:  # of one alone, eq. 7 makes 0
            raise UserError(f"neighbours {self.neighbours}: give 0, or 2 or more")


class PatchCore(Frozen):
    """The distance of each patch to the nearest in a memory that covers all normal ones."""

    name: ClassVar[str] = "patchcore"
    summary: ClassVar[str] = "Distance of patches to a coreset of normal ones, frozen features"
    paper: ClassVar[str] = "Roth et al., CVPR 2022"
    notes: ClassVar[Notes] = Notes(
        paper="Features of stages 2 and 3 of a WideResNet50 are averaged over 3 x 3 cells, brought "
        "to 1024 numbers a patch, and a greedy coreset of 1 to 25 % of all patches, chosen "
        "after a random projection, is remembered. The score is the largest distance of a "
        "patch to its nearest one in memory, times a weight (eq. 7) that grows where that one "
        "is itself unlike the rest.",
        program="The authors' program averages runs of the 9 c numbers of a neighbourhood, begins "
        "the greedy choice from ten random points, and leaves the weight of eq. 7 out. anomalib "
        "has the weight, averages each channel over 3 x 3 and does not reduce the dimension.",
        ours="The default looks through EfficientNet-Lite0 (blocks 4 and 10) and keeps all "
        "channels, as anomalib does; `paper` has the WideResNet50 and the authors' 1024 "
        "numbers. The weight of eq. 7 is in. The greedy choice is exact, from one random "
        "point, but among a bounded number of patches drawn evenly from the films, so that "
        "neither memory nor time grows with the number of films.",
    )
    Config: ClassVar[type] = PatchCoreConfig
    PRESETS: ClassVar[Mapping[str, PatchCoreConfig]] = {
        "tiny": PatchCoreConfig(
            image_size=48, layers=(2, 4), candidates=600, coreset=0.1, projection=16
        ),
        "small": PatchCoreConfig(),
        "paper": PatchCoreConfig(
            image_size=224,
            backbone=WRN50,
            layers=(2, 3),
            dimension=1024,
            candidates=100_000_000,
            coreset=0.1,
            memory=100_000_000,
            projection=128,
        ),
    }
    supervision: ClassVar[Supervision] = Supervision.NORMAL_ONLY

    def patches(self, maps: list[Tensor]) -> Float[Tensor, "b d i j"]:
        """The feature of each patch, on the grid of the finest layer."""
        c = self.config
        local = [neighbourhoods(x, c.neighbourhood, c.dimension) for x in maps]
        joined = join(local)
        return pool_channels(joined, c.dimension) if c.dimension else joined

    def fit(self, normal: Films, *, seed: int = 0, job: TrainingRun | None = None) -> Self:
        """Remembers patches that cover those of the normal films."""
        job, c = job or TrainingRun(), self.config
        candidates = self._candidates(normal, seed, job)
        size = min(c.memory, math.ceil(c.coreset * len(candidates)))
        draw, first = generators(seed, ["patchcore/projection", "patchcore/first"])
        points = random_projection(candidates, c.projection, draw) if c.projection else candidates
        with Ticker("coreset", size, show=job.progress) as report_progress:
            centres, _ = k_centre(points, size, first, report_progress)
        self.learnt = {"memory": candidates[centres].cpu()}
        return self

    def _candidates(self, normal: Films, seed: int, job: TrainingRun) -> Float[Tensor, "n d"]:
        """Patches of all films, the same number from each, drawn without repetition."""
        taken: Tensor | None = None
        filled = 0
        for maps in self.feature_batches(normal, job):
            films = rows(self.patches(maps))  # (b, n, d)
            each = min(films.shape[1], math.ceil(self.config.candidates / len(normal)))
            if taken is None:  # in one piece from the start: no second copy at the end
                taken = films.new_empty(each * len(normal), films.shape[2])
            for film in films:
                draw = generators(seed, [f"patchcore/film/{filled}"])[0]
                place = torch.randperm(len(film), generator=draw)[:each].sort().values
                taken[filled : filled + each] = film[place.to(film.device)]
                filled += each
        assert taken is not None  # walk gives at least one portion
        return taken

    def score(self, batch: Batch, *, seed: int = 0) -> Scores:
        """The weighted distance; the map is the distance of each patch, blurred."""
        self.require_fitted()
        grid = self.patches(self.maps(batch.image))
        memory = self.learnt["memory"].to(grid.device)
        query = rows(grid)  # (b, n, d)
        b, n, d = query.shape
        distance, place = nearest(query.reshape(b * n, d), memory)
        distance, place = distance.reshape(b, n), place.reshape(b, n)
        largest, worst = distance.max(1)
        row = torch.arange(b, device=grid.device)
        weight = torch.ones_like(largest)
        if self.config.neighbours:
            count = min(self.config.neighbours, len(memory))
            weight = reweighting(query[row, worst], place[row, worst], memory, count)
        coarse = distance.reshape(b, 1, *grid.shape[-2:])
        return Scores(
            score=(weight * largest).cpu(),
            anomaly_map=enlarge(coarse, batch.image.shape[-2:], self.config.sigma).cpu(),
            components={"distance": largest.cpu(), "weight": weight.cpu()},
        )


def reweighting(
    patch: Float[Tensor, "b d"],
    place: Int64[Tensor, " b"],
    memory: Float[Tensor, "m d"],
    count: int,
) -> Float[Tensor, " b"]:
    """The factor of eq. 7: near 1 where the remembered patch nearest to `patch`, that at `place`,
    is no nearer than the `count` remembered ones around it, itself among them."""
    if count < 2:
        return torch.ones(len(patch), device=patch.device)
    nearby = nearest(memory[place], memory, count)[1]  # (b, count): m* first
    apart = (patch[:, None] - memory[nearby]).square().sum(-1).sqrt()
    share = apart.softmax(1)[:, 0]
    return 1 - share
