"""The networks that look at a film: the backbone, the focal network, or one of the user."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from nofinding.errors import UserError
from nofinding.methods.base.taught_weights import IMAGENET, chest_weights, focal_weights
from nofinding.methods.diff3m.feature_space.config import NO_FOCAL, SHIPPED, Diff3MFConfig
from nofinding.methods.diff3m.feature_space.views import (
    Views,
    see,
)
from nofinding.methods.frozen_features.lesion_evidence import condensed
from nofinding.nets.chest import ChestNet
from nofinding.nets.external_backbones import load_features
from nofinding.nets.feature_maps import FeatureMaps
from nofinding.nets.focal import WIDTHS, FocalNet
from nofinding.runtime import Network, Runtime, device_of

__all__ = ["FeatureNetworks"]

CHEST = "chest"


class FeatureNetworks:
    """Films in, features out. Nothing of it is learnt while `diff3m-f` is fitted."""

    def __init__(self, config: Diff3MFConfig, modules: nn.ModuleDict) -> None:
        """Puts the networks into `modules`, with weights of chance but for ImageNet's."""
        self.config, self.modules = config, modules
        own = config.backbone.startswith(("timm:", "transformers:"))
        self.taught = config.backbone != IMAGENET and not own
        self.focussed = config.focal != NO_FOCAL
        modules["eyes"] = self._new_backbone()
        if self.focussed:
            modules["focal"] = self._new_focal()
        if own:
            modules["own"] = load_features(config.backbone, config.layers)
        self.sha, self.focal_sha = "", ""
        self.runtime, self.prepared = Runtime(), dict[str, Network]()

    @property
    def backbone(self) -> ChestNet:
        """The backbone."""
        net = self.modules["eyes"]
        assert isinstance(net, ChestNet)
        return net

    @property
    def focal(self) -> FocalNet | None:
        """The network that finds lesions, if any."""
        net = self.modules["focal"] if self.focussed else None
        assert net is None or isinstance(net, FocalNet)
        return net

    @property
    def own(self) -> FeatureMaps | None:
        """A network of the user in place of the backbone, if any."""
        net = dict(self.modules.items()).get("own")
        assert net is None or isinstance(net, FeatureMaps)
        return net

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

    def views(self) -> Views:
        """All of them as one network, mirrored films averaged in if that was asked for."""
        return Views(
            self.backbone,
            taught=self.taught,
            mirror=self.config.mirror,
            focal=self.focal,
            own=self.own,
        )

    def see(self, image: Tensor) -> dict[str, Tensor]:
        """Features of films in [-1, 1], by name, on the CPU."""
        if "eyes" not in self.prepared:
            self.prepared["eyes"] = self.runtime.prepare(self.views())
        device, names = next(self.backbone.parameters()).device, self.views().names
        features = see(self.prepared["eyes"], image.to(device), names)
        if "lesions" in features:
            features["places"], features["highest"] = condensed(features.pop("lesions"))
        return {k: v.cpu() for k, v in features.items()}

    def load_weights(self) -> None:
        """Takes the weights that the configuration names. Raises UserError where there are none."""
        if self.taught:
            state, self.sha = chest_weights(self.config.backbone)
            self._load_backbone(state)
        if self.focussed:
            state, self.focal_sha = focal_weights(self.config.focal)
            self._load_focal(state)

    def _load_backbone(self, state: Mapping[str, Tensor]) -> None:
        hidden = len(state.get("norm.weight", self.backbone.norm.weight))
        if hidden != len(self.backbone.norm.weight):  # your own `synthetic` may have another head
            self.modules["eyes"] = self._new_backbone(hidden).to(device_of(self.backbone))
        try:
            self.backbone.load_learnt(dict(state))
        except RuntimeError as error:
            raise UserError(
                f"backbone {self.config.backbone}: was taught at another image_size than "
                f"{self.config.image_size}, or is no synthetic model"
            ) from error
        self.prepared.clear()

    def _load_focal(self, state: Mapping[str, Tensor]) -> None:
        net = self._new_focal(_widths_of(state))
        try:
            net.load_learnt(state)
        except RuntimeError as error:
            raise UserError(f"focal {self.config.focal}: is no focal model") from error
        self.modules["focal"] = net
        self.prepared.clear()

    def state(self) -> dict[str, Tensor]:
        """What a model must hold of them: shipped ones by their hash, others whole, the user's own
        by a fingerprint."""
        out: dict[str, Tensor] = {}
        if self.config.backbone == CHEST:
            out["chest"] = _as_bytes(self.sha)
        elif self.taught:
            out |= {f"eyes.{k}": v for k, v in self.backbone.learnt().items()}
        if self.own is not None:
            out["own"] = torch.tensor(self.own.fingerprint)
        if self.focal is not None:
            if self.config.focal == SHIPPED:
                out["lesions"] = _as_bytes(self.focal_sha)
            else:
                out |= {f"focal.{k}": v for k, v in self.focal.learnt().items()}
        return out

    def load_state(
        self, state: Mapping[str, Tensor], under: Mapping[str, Mapping[str, Tensor]]
    ) -> None:
        """Takes what `state` gave, and the same by first name. Raises UserError where a shipped
        network is another now than the model was fitted with."""
        if "chest" in state:
            weights, self.sha = chest_weights(CHEST)
            if bytes(state["chest"].tolist()).hex() != self.sha:
                raise UserError("the model was fitted with another chest backbone than this one")
            self._load_backbone(weights)
        elif self.taught:
            self._load_backbone(under["eyes"])
        if self.own is not None and int(state["own"]) != self.own.fingerprint:
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
        self.prepared.clear()


def _as_bytes(sha256: str) -> Tensor:
    return torch.tensor(list(bytes.fromhex(sha256)), dtype=torch.uint8)


def _widths_of(state: Mapping[str, Tensor]) -> tuple[int, ...]:
    """The widths that a focal network was built with, as its weights have them."""
    firsts = (state.get(f"unet.down.{level}.first.weight") for level in range(len(WIDTHS)))
    return tuple(WIDTHS[i] if w is None else len(w) for i, w in enumerate(firsts))
