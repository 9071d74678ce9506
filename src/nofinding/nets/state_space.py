"""Selective state spaces on a grid: MambaAD's scan, its blocks, its fusion and its decoder.

He et al., NeurIPS 2024, arXiv:2404.06564; the scan is that of Mamba (Gu and Dao 2023,
arXiv:2312.00752), computed in parallel over the sequence by `mambapy`.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from nofinding.extras import need
from nofinding.functional.features.hilbert import directions
from nofinding.nets.reverse import first_weights, stage

__all__ = ["HalfFPN", "HybridStateSpace", "LocalStateSpace", "MambaDecoder", "selective_scan"]

FIRST_STEP = (1e-3, 0.1)  # range of the first softplus(delta), drawn evenly in its logarithm


def selective_scan(
    u: Float[Tensor, "b l k d"],
    delta: Float[Tensor, "b l k d"],
    a: Float[Tensor, "k d n"],
    b: Float[Tensor, "b l k n"],
    c: Float[Tensor, "b l k n"],
    skip: Float[Tensor, "k d"],
) -> Float[Tensor, "b l k d"]:
    """Mamba's recurrence (algorithm 2), k sequences side by side, each with matrices of its own.

    h_t = exp(delta_t a) h_{t-1} + delta_t b_t u_t;  y_t = c_t h_t + skip u_t.
    """
    pscan = need("mambapy.pscan", "methods", "mambaad").pscan
    decay = torch.exp(delta[..., None] * a)
    drive = (delta * u)[..., None] * b[..., None, :]
    h = pscan(decay.flatten(2, 3), drive.flatten(2, 3)).reshape(decay.shape)
    y: Tensor = torch.einsum("blkdn,blkn->blkd", h, c) + skip * u
    return y


class HybridScan(nn.Module):
    """A gated selective scan of a square map along Hilbert's curve, in up to eight directions.

    Each direction has its own step sizes, input and output matrices; what they give is put back
    where it came from, added, normalised and gated.
    """

    order: Tensor
    back: Tensor

    def __init__(self, width: int, side: int, *, state: int, expand: int, ways: int) -> None:
        """`state`: N, numbers that each channel remembers. `expand`: how much wider inside."""
        super().__init__()
        inner, self.rank, self.state = expand * width, math.ceil(width / 16), state
        self.into = nn.Linear(width, 2 * inner, bias=False)
        self.near = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        bound = inner**-0.5
        self.select = nn.Parameter(torch.empty(ways, inner, self.rank + 2 * state))
        nn.init.uniform_(self.select, -bound, bound)
        self.step = nn.Parameter(torch.empty(ways, self.rank, inner))
        nn.init.uniform_(self.step, -(self.rank**-0.5), self.rank**-0.5)
        low, high = (math.log(x) for x in FIRST_STEP)
        first = torch.exp(torch.rand(ways, inner) * (high - low) + low)
        self.step_bias = nn.Parameter(first + torch.log(-torch.expm1(-first)))  # softplus undone
        memory = torch.arange(1, state + 1, dtype=torch.float32).log()
        self.log_a = nn.Parameter(memory.expand(ways, inner, state).clone())
        self.skip = nn.Parameter(torch.ones(ways, inner))
        self.norm = nn.LayerNorm(inner)
        self.out = nn.Linear(inner, width, bias=False)
        order = directions(side, ways)
        self.register_buffer("order", order, persistent=False)
        self.register_buffer("back", order.argsort(dim=1), persistent=False)

    def walks(self, x: Float[Tensor, "b d h w"]) -> Float[Tensor, "b l k d"]:
        """The map as k sequences, one a direction."""
        return x.flatten(2)[:, :, self.order].permute(0, 3, 2, 1)

    def unwalked(self, y: Float[Tensor, "b l k d"]) -> Float[Tensor, "b l d"]:
        """Cells of all sequences back in their places, and added."""
        ways = torch.arange(len(self.back), device=y.device)[:, None]
        placed: Tensor = y.permute(0, 2, 1, 3)[:, ways, self.back]  # (b, k, l, d)
        return placed.sum(1)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        """What the state space makes of the map."""
        inside, gate = self.into(x).chunk(2, dim=-1)
        u = self.walks(F.silu(self.near(inside.permute(0, 3, 1, 2))))
        selection = torch.einsum("blkd,kdc->blkc", u, self.select)
        sizes = [self.rank, self.state, self.state]
        rough, b, c = torch.split(selection, sizes, dim=-1)
        delta = F.softplus(torch.einsum("blkr,krd->blkd", rough, self.step) + self.step_bias)
        y = selective_scan(u, delta, -self.log_a.exp(), b, c, self.skip)
        normed = self.norm(self.unwalked(y)).reshape(gate.shape)
        out: Tensor = self.out(normed * F.silu(gate))
        return out


class HybridStateSpace(nn.Module):
    """HSS block: normalise, scan, add the input back."""

    def __init__(self, width: int, side: int, *, state: int, expand: int, ways: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.scan = HybridScan(width, side, state=state, expand=expand, ways=ways)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        """The map with what its far cells tell."""
        out: Tensor = x + self.scan(self.norm(x))
        return out


def _local(width: int, kernel: int) -> nn.Sequential:
    """1 x 1, depth-wise k x k, 1 x 1; each with instance normalisation and SiLU."""
    around = nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width, bias=False)
    layers: list[nn.Module] = []
    for convolution in (nn.Conv2d(width, width, 1), around, nn.Conv2d(width, width, 1)):
        layers += [convolution, nn.InstanceNorm2d(width), nn.SiLU()]
    return nn.Sequential(*layers)


class LocalStateSpace(nn.Module):
    """LSS module: HSS blocks in a row, beside them convolutions of several kernels; all joined."""

    def __init__(
        self, width: int, side: int, *, depth: int, kernels: Sequence[int], **scan: int
    ) -> None:
        """`depth`: HSS blocks. `scan`: state, expand and ways of each."""
        super().__init__()
        self.far = nn.Sequential(*(HybridStateSpace(width, side, **scan) for _ in range(depth)))
        self.near = nn.ModuleList(_local(width, kernel) for kernel in kernels)
        self.join = nn.Conv2d((1 + len(kernels)) * width, width, 1)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b h w c"]:
        """The map with what near and far cells tell."""
        first = x.permute(0, 3, 1, 2)
        parts = [self.far(x).permute(0, 3, 1, 2), *(near(first) for near in self.near)]
        joined: Tensor = self.join(torch.cat(parts, dim=1)).permute(0, 2, 3, 1)
        return x + joined


class PatchExpand(nn.Module):
    """Twice the sides: each cell becomes four, by a linear map and a normalisation."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.expand = nn.Linear(inputs, 4 * outputs, bias=False)
        self.norm = nn.LayerNorm(outputs)

    def forward(self, x: Float[Tensor, "b h w c"]) -> Float[Tensor, "b 2*h 2*w d"]:
        """The four lie as rows and columns of 2 x 2."""
        b, h, w, _ = x.shape
        four = self.expand(x).reshape(b, h, w, 2, 2, -1).permute(0, 1, 3, 2, 4, 5)
        out: Tensor = self.norm(four.reshape(b, 2 * h, 2 * w, -1))
        return out


class MambaDecoder(nn.Module):
    """LSS modules at every scale, the coarsest first; the embedding's own scale gives no map."""

    def __init__(
        self, widths: Sequence[int], embedding: int, side: int, depths: Sequence[int], **lss: object
    ) -> None:
        """`side`: of the embedding. `depths`: HSS blocks of the embedding's scale and of each
        map's, coarsest first; a module holds three of them, else two, else one, as divides them.
        `lss`: kernels, and state, expand and ways of the scans."""
        super().__init__()
        channels = (embedding, *reversed(widths))
        self.up = nn.ModuleList(PatchExpand(a, b) for a, b in pairwise(channels))
        self.stages = nn.ModuleList()
        for level, (width, depth) in enumerate(zip(channels, depths, strict=True)):
            each = next(n for n in (3, 2, 1) if depth % n == 0)
            modules = (
                LocalStateSpace(width, side * 2**level, depth=each, **lss)  # type: ignore[arg-type]
                for _ in range(depth // each)
            )
            self.stages.append(nn.Sequential(*modules))

    def forward(self, x: Float[Tensor, "b e i j"]) -> list[Tensor]:
        """Maps of the teacher's shapes, finest first."""
        x = self.stages[0](x.permute(0, 2, 3, 1))
        maps: list[Tensor] = []
        for up, each in zip(self.up, list(self.stages)[1:], strict=True):
            x = each(up(x))
            maps.insert(0, x.permute(0, 3, 1, 2))
        return maps


def _convolved(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class HalfFPN(nn.Module):
    """Each scale added to the next coarser one, then all squeezed by bottlenecks."""

    def __init__(self, widths: Sequence[int], embedding: int, depth: int) -> None:
        """`widths`: channels of the maps, finest first. `depth`: blocks of the squeeze."""
        super().__init__()
        self.halve = nn.ModuleList(_convolved(a, b, 3, 2) for a, b in pairwise(widths))
        self.side = nn.ModuleList(_convolved(w, w, 1, 1) for w in widths[1:])
        self.fuse = _convolved(widths[-1], widths[-1], 1, 1)
        self.embed = stage(widths[-1], embedding, depth, "bottleneck", "down", narrow=4)
        first_weights(self)

    def forward(self, maps: Sequence[Tensor]) -> Float[Tensor, "b e i j"]:
        """The embedding, at half the sides of the coarsest map."""
        x = maps[0]
        for halve, side, coarser in zip(self.halve, self.side, maps[1:], strict=True):
            x = halve(x) + side(coarser)
        out: Tensor = self.embed(self.fuse(x))
        return out
