"""A diffusion transformer on a small grid: every cell a token, the noise level in every norm.

Peebles and Xie, ICCV 2023, arXiv:2212.09748 (DiT), section 3.2, "adaLN-Zero", with patches of one
cell and without classes.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from nofinding.nets.unet import TimeEmbedding

__all__ = ["DiT", "grid_positions"]

WAVES = 256  # numbers that a time step is spelt in before it is embedded
BASE = 10000.0


def grid_positions(rows: int, columns: int, width: int) -> Float[Tensor, "rows*columns width"]:
    """Each cell's place as sinusoids: the first half of the numbers tells the column, the other
    the row; in each, sines, then cosines, of wavelengths from 2 pi to 2 pi times 10000.

    Raises ValueError for a width that is no multiple of 4.
    """
    if width % 4 or width < 4:
        raise ValueError(f"width {width}: give a multiple of 4")
    share = torch.arange(width // 4, dtype=torch.float64) / (width // 4)
    turn = BASE**-share

    def line(count: int) -> Tensor:
        angle = torch.arange(count, dtype=torch.float64)[:, None] * turn
        return torch.cat([angle.sin(), angle.cos()], dim=1)

    across = line(columns).expand(rows, -1, -1)
    down = line(rows)[:, None].expand(-1, columns, -1)
    return torch.cat([across, down], dim=2).flatten(0, 1).float()


def _modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift


class Block(nn.Module):
    """Attention and a two-layer network, each behind a norm that the noise level shifts and scales
    and a gate that it opens. All gates are shut at first: the block then changes nothing."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width)
        )
        self.tell = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.tell.weight)
        nn.init.zeros_(self.tell.bias)

    def attend(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        """Self-attention over all cells."""
        b, n, d = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.out(attended.transpose(1, 2).reshape(b, n, d))
        return out

    def forward(
        self, x: Float[Tensor, "b n d"], level: Float[Tensor, "b d"]
    ) -> Float[Tensor, "b n d"]:
        """`level`: the embedded time step, after SiLU."""
        modulation = self.tell(level)[:, None].chunk(6, dim=-1)
        x = x + modulation[2] * self.attend(_modulated(x, modulation[0], modulation[1]))
        out: Tensor = x + modulation[5] * self.mlp(_modulated(x, modulation[3], modulation[4]))
        return out


class DiT(nn.Module):
    """One call: (z_t, t) -> the noise in z_t. Gives zeros until it has learnt anything."""

    places: Tensor

    def __init__(
        self, channels: int, grid: tuple[int, int], *, width: int, depth: int, heads: int
    ) -> None:
        """`grid`: rows and columns. Raises ValueError where width does not divide by heads, or by
        4."""
        super().__init__()
        if width % heads:
            raise ValueError(f"heads {heads}: give a number that divides {width}")
        self.register_buffer("places", grid_positions(*grid, width), persistent=False)
        self.into = nn.Linear(channels, width)
        self.time = TimeEmbedding(WAVES, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.tell = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, channels)
        for module in self.modules():
            if isinstance(module, nn.Linear) and module.weight.any():
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        for last in (self.tell, self.out):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(
        self, z: Float[Tensor, "b c h w"], t: Float[Tensor, " b"]
    ) -> Float[Tensor, "b c h w"]:
        """One row of `t` may serve all rows of `z`; `t` counts steps of the whole schedule."""
        x = self.into(z.flatten(2).transpose(1, 2)) + self.places
        level = F.silu(self.time(t)).expand(len(z), -1)
        for block in self.blocks:
            x = block(x, level)
        shift, scale = self.tell(level)[:, None].chunk(2, dim=-1)
        noise: Tensor = self.out(_modulated(x, shift, scale))
        return noise.transpose(1, 2).reshape(z.shape)
