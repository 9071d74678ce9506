"""A second encoder that tells a denoiser what the film is: DiAD's semantic-guided network.

He et al. 2024, arXiv:2312.06607, on the plan of ControlNet (Zhang et al. 2023): a trainable copy
of a denoiser's encoder and middle sees the film, and what it finds is added, through convolutions
that start at zero, to what the denoiser's own decoder takes in at the deepest level.
"""

import copy

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from nofinding.nets.denoiser import Denoiser
from nofinding.nets.unet import UNetShape

__all__ = ["Guided", "SemanticGuidance", "SpatialFusion"]

Maps = Float[Tensor, "b c h w"]
Film = Float[Tensor, "b 1 h w"]


def _zero(layer: nn.Conv2d) -> nn.Conv2d:
    for weight in layer.parameters():
        nn.init.zeros_(weight)
    return layer


class SpatialFusion(nn.Module):
    """The spatial-aware feature fusion (SFF): each map of the deepest level takes in all maps of
    the level above, which see the film twice as finely.

    m_j -> SiLU(m_j + sum_i SiLU(InstanceNorm(conv_ij(f_i)))), conv_ij 3 x 3 of stride 2.
    """

    def __init__(self, fine: list[int], deep: int, maps: int) -> None:
        """`fine`: channels of the level above; `deep`: of each of the `maps` deepest ones."""
        super().__init__()
        self.paths = nn.ModuleList(
            nn.ModuleList(
                nn.Sequential(
                    nn.Conv2d(channels, deep, 3, stride=2, padding=1, bias=False),
                    nn.InstanceNorm2d(deep),
                    nn.SiLU(),
                )
                for channels in fine
            )
            for _ in range(maps)
        )

    def forward(self, fine: list[Tensor], deep: list[Tensor]) -> list[Tensor]:
        """The deepest maps, enriched."""
        fused = []
        for paths, own in zip(self.paths, deep, strict=True):
            assert isinstance(paths, nn.ModuleList)
            paths_out = [path(map_) for path, map_ in zip(paths, fine, strict=True)]
            fused.append(F.silu(own + sum(paths_out[1:], paths_out[0])))
        return fused


class SemanticGuidance(nn.Module):
    """The copy: noised latent, step and film in; out comes what to add at the deepest level."""

    def __init__(self, denoiser: Denoiser, shape: UNetShape, halvings: int) -> None:
        """`halvings`: how often the film's sides are halved to make the latent's.

        Raises ValueError for a U-Net of one level, or whose deepest map is a single position.
        """
        super().__init__()
        if len(shape.multipliers) < 2 or shape.image_size < 2 ** len(shape.multipliers):
            raise ValueError("guidance wants two levels and a deepest map of 2 x 2 or more")
        self.time = copy.deepcopy(denoiser.time)
        self.encoder = copy.deepcopy(denoiser.encoder)
        self.middle = copy.deepcopy(denoiser.middle)
        width = shape.width * shape.multipliers[0]
        layers: list[nn.Module] = [nn.Conv2d(1, 16, 3, padding=1), nn.SiLU()]
        for _ in range(halvings):
            layers += [nn.Conv2d(16, 16, 3, stride=2, padding=1), nn.SiLU()]
        self.hint = nn.Sequential(*layers, _zero(nn.Conv2d(16, width, 3, padding=1)))

        self.maps = shape.res_blocks + 1  # of each level: what comes down, and every block's
        above, deep = (shape.width * m for m in shape.multipliers[-2:])
        before = shape.width * shape.multipliers[max(0, len(shape.multipliers) - 3)]
        fine = [before, *[above] * shape.res_blocks]
        # What comes down still has the channels of the level above.
        self.widen = nn.Conv2d(above, deep, 1) if above != deep else nn.Identity()
        self.fusion = SpatialFusion(fine, deep, self.maps)
        into = [above, *[deep] * shape.res_blocks]
        self.zeros = nn.ModuleList(_zero(nn.Conv2d(deep, out, 1)) for out in into)
        self.zero_middle = _zero(nn.Conv2d(deep, deep, 1))

    def forward(
        self, z: Maps, t: Float[Tensor, " b"], film: Film
    ) -> tuple[list[Tensor], Float[Tensor, "b c i j"]]:
        """What to add to the deepest level's maps, in the order of the encoder, and to the
        middle's."""
        embedding = self.time(t)
        x, outputs = z, []
        for number, stage in enumerate(self.encoder.stages):
            assert isinstance(stage, nn.ModuleList)
            for block in stage:
                x = block(x, embedding)
            if number == 0:
                x = x + self.hint(film)
            outputs.append(x)
        deep = outputs[-self.maps :]
        fine = outputs[-2 * self.maps : -self.maps]
        deep = self.fusion(fine, [self.widen(deep[0]), *deep[1:]])
        guidance = [zero(map_) for zero, map_ in zip(self.zeros, deep, strict=True)]
        return guidance, self.zero_middle(self.middle(x, embedding))


class Guided(nn.Module):
    """A trained denoiser with its guidance: (z_t, t, film) -> the noise in z_t.

    The denoiser's time embedding, encoder and middle are locked, as in the published program; its
    decoder and head are trained on together with the guidance.
    """

    def __init__(self, denoiser: Denoiser, shape: UNetShape, halvings: int) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.guidance = SemanticGuidance(denoiser, shape, halvings)
        for locked in (denoiser.time, denoiser.encoder, denoiser.middle):
            locked.requires_grad_(False)

    def forward(self, z: Maps, t: Float[Tensor, " b"], film: Film | None) -> Maps:
        """Without a film, the denoiser alone."""
        net = self.denoiser
        embedding = net.time(t)
        skips = net.encoder(z, embedding)
        h = net.middle(skips[-1], embedding)
        if film is not None:
            guidance, middle = self.guidance(z, t, film)
            h = h + middle
            first = len(skips) - len(guidance)
            skips[first:] = [own + more for own, more in zip(skips[first:], guidance, strict=True)]
        out: Tensor = net.head(net.decoder(h, skips, embedding))
        return out
