"""Diff3M's own networks on a grid of whitened features: what of a film does not come back."""

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from nofinding.data.batch import Films
from nofinding.data.ehr import EhrStats
from nofinding.errors import UserError
from nofinding.functional.diffusion.schedule import linear_abar, respace
from nofinding.functional.features.whiten import Whitening, fit_whitening, whitened
from nofinding.methods.diff3m.config import Diff3MConfig
from nofinding.methods.diff3m.detection import (
    Call,
    by_level,
    detect_as_paper,
    encode_as_paper,
    encoder_conditioning,
)
from nofinding.methods.diff3m.feature_space.config import STEPS, Diff3MFConfig
from nofinding.methods.diff3m.feature_space.films import FeatureFilms
from nofinding.methods.diff3m.losses import losses
from nofinding.methods.diff3m.network import Answer, Diff3MNet
from nofinding.nets.chest import STRIDE
from nofinding.runtime import Network, Runtime, device_of
from nofinding.training import TrainingRun, train
from nofinding.types import Batch

__all__ = ["FeatureRepair", "size_of_repair"]


class FeatureRepair:
    """A network that repairs features of normal films, and what it needs to know of them."""

    def __init__(
        self,
        config: Diff3MFConfig,
        stats: EhrStats,
        columns: Sequence[int],
        modules: nn.ModuleDict,
    ) -> None:
        """`columns` of the record condition it; its network is put into `modules`."""
        self.config, self.stats, self.columns, self.modules = config, stats, columns, modules
        self.abar, self.levels = _schedule(config)
        self.modules["repair"] = self._new_network()
        self.whitening: Whitening | None = None
        self.runtime, self.prepared = Runtime(), dict[str, Network]()

    @property
    def network(self) -> Diff3MNet:
        """The diffusion network."""
        net = self.modules["repair"]
        assert isinstance(net, Diff3MNet)
        return net

    def _new_network(self) -> Diff3MNet:
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
        groups = [list(self.columns)] if self.columns else []
        return Diff3MNet(shape, groups, categories, channels=c.channels)

    def loss(self, net: nn.Module, batch: Batch, rows: Sequence[Generator]) -> dict[str, Tensor]:
        """Noise loss and regeneration loss of Diff3M (eq. 4), on features."""
        assert isinstance(net, Diff3MNet)
        return losses(net, batch, rows, linear_abar(STEPS), self.config)

    def fit(
        self,
        normal: Films,
        indices: Sequence[int],
        maps: Float[Tensor, "k c n n"],
        moved: Float[Tensor, "m c n n"] | None,
        *,
        seed: int,
        job: TrainingRun,
    ) -> tuple[Float[Tensor, " k"], Float[Tensor, "n n"]]:
        """Trains the network; the size of its repair of every training film, and the mean squared
        change of each cell. `moved` is what another exposure changes in maps."""
        whitening = self.whitening = fit_whitening(maps, self.config.channels, moved)
        parts = [
            whitened(part.float(), whitening).half() for part in maps.chunk(len(indices) // 64 + 1)
        ]
        features = FeatureFilms(torch.cat(parts), normal, indices)
        device = device_of(self.network)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.modules["repair"] = self._new_network().to(device)
        train(self.network, self.loss, cast(Films, features), self.config.train, seed=seed, job=job)
        if self.config.compact:
            self.network.load_state_dict(_rounded(self.network.state_dict()))
        self.prepared.clear()
        return self._all_repairs(features)

    @torch.no_grad()
    def _all_repairs(self, films: FeatureFilms) -> tuple[Float[Tensor, " k"], Float[Tensor, "n n"]]:
        rows, cells = [], []
        for start in range(0, len(films), 64):
            batch = films.batch(range(start, min(start + 64, len(films))))
            cell, _ = self._repaired(batch.image, batch)
            rows.append(size_of_repair(cell))
            cells.append(cell.mean(0) * len(batch.ids))
        return torch.cat(rows), torch.stack(cells).sum(0) / len(films)

    def _call(self, context: Tensor | None, *, regenerate: bool) -> Call:
        key = f"repair {regenerate}"
        if key not in self.prepared:
            self.prepared[key] = self.runtime.prepare(Answer(self.network, regenerate))
        levels = self.levels.to(next(self.network.parameters()).device, torch.float32)
        return by_level(self.prepared[key], levels, context, regenerates=regenerate)

    def repaired(self, maps: Float[Tensor, "b c n n"], batch: Batch) -> tuple[Tensor, Tensor]:
        """Squared change of every cell (b, n, n), and the attention on each field (b, f)."""
        assert self.whitening is not None
        return self._repaired(whitened(maps, self.whitening), batch)

    @torch.no_grad()
    def _repaired(self, z: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        c, net = self.config, self.network.eval()
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

    def state(self) -> dict[str, Tensor]:
        """The network's weights and the whitening; nothing before `fit`."""
        if self.whitening is None:
            return {}
        weights = self.network.state_dict()
        stored = _halved(weights) if self.config.compact else weights
        out = {f"repair.{k}": v for k, v in stored.items()}
        return out | {f"whitening.{k}": v for k, v in self.whitening._asdict().items()}

    def load_state(self, under: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Takes what `state` gave, by first name; a model that was fitted without has none."""
        self.whitening = None
        if "repair" in under:
            self.network.load_state_dict(dict(under["repair"]))
            self.whitening = Whitening(**under["whitening"])
        self.prepared.clear()


def _schedule(config: Diff3MFConfig) -> tuple[Tensor, Tensor]:
    """abar at the kept noise levels, and these. Raises UserError where they are impossible."""
    try:
        levels = respace(STEPS, config.respacing)
    except ValueError as error:
        raise UserError(f"respacing {config.respacing!r}: {error}") from error
    if not 1 <= config.noise_level < len(levels):
        raise UserError(f"noise_level {config.noise_level}: give 1 to {len(levels) - 1}")
    return linear_abar(STEPS)[levels], levels


def size_of_repair(cells: Float[Tensor, "b n n"]) -> Float[Tensor, " b"]:
    """The logarithm of the mean squared change of a film's cells."""
    return cells.mean(dim=(1, 2)).clamp_min(1e-12).log()


def _halved(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.bfloat16() if v.dtype == torch.float32 else v for k, v in state.items()}


def _rounded(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.to(state[k].dtype) for k, v in _halved(state).items()}
