"""Films as features: what the networks say of them, and what another acquisition changes in it."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import torch
from jaxtyping import Float, Int64
from rich.console import Console
from rich.progress import track
from torch import Tensor

from nofinding.data.batch import Films
from nofinding.functional.noise import generators
from nofinding.functional.synthetic.acquisition import exposure, place, placement
from nofinding.methods.diff3m.feature_space.config import Diff3MFConfig
from nofinding.methods.diff3m.feature_space.views import DISTANCES
from nofinding.types import Batch

__all__ = ["FOLDS", "FeatureFilms", "features_of_films", "folds"]

LARGE = ("maps", "places")  # kept in half precision while a model is fitted
CELLS = 4  # one film in so many, of those that pooled features are moved of, also shows its cells
FOLDS = 5
"""Parts of the training films; the spread of a distance is that of films in none of its own."""


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


See: TypeAlias = Callable[[Tensor], dict[str, Tensor]]
"""Films in [-1, 1] in; their features by name out."""


@torch.no_grad()
def features_of_films(
    see: See,
    films: Films,
    indices: Sequence[int],
    config: Diff3MFConfig,
    seed: int,
    *,
    maps: bool,
    progress: bool,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Features of the films as they are, and what another acquisition changes in them.

    Pooled features see exposure and position changed; maps, whose cells must stay where they are,
    the exposure alone, and of fewer films, for each has many cells. Without `maps` there are none.
    """
    size, times = config.batch_size, config.nuisance
    plain: list[dict[str, Tensor]] = []
    pooled: list[dict[str, Tensor]] = []
    cells: list[dict[str, Tensor]] = []
    starts = range(0, len(indices), size)
    for start in track(starts, "features", disable=not progress, console=Console(stderr=True)):
        batch = films.batch(indices[start : start + size])
        film = (batch.image + 1) / 2
        features = see(batch.image)
        if not maps:
            del features["maps"]
        plain.append({k: v.half() if k in LARGE else v for k, v in features.items()})
        rows = generators(seed, [f"copy/{name}" for name in batch.ids])
        if start < config.copied:
            other = see(exposure(place(film, placement(rows)), rows) * 2 - 1)
            pooled.append({k: times * (other[k] - features[k]) for k in DISTANCES if k in features})
        if maps and start * CELLS < config.copied:
            other = see(exposure(film, rows) * 2 - 1)
            cells.append({"maps": (times * (other["maps"] - features["maps"])).half()})
    return _joined(plain), _joined(pooled) | _joined(cells)


def folds(ids: Sequence[str]) -> Int64[Tensor, " n"]:
    """FOLDS parts of the films, in turn. A film that is repeated is in one of them only."""
    number = {name: i for i, name in enumerate(dict.fromkeys(ids))}
    return torch.tensor([number[name] % FOLDS for name in ids])


def _joined(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The same features of all films; nothing of no parts."""
    return {k: torch.cat([part[k] for part in parts]) for k in (parts[0] if parts else ())}
