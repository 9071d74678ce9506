"""Two films laid over each other: the stretch and shift that fits best, and how alike they are."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample

__all__ = ["agreement", "aligned", "sampled"]

STEPS = ((2.0, 2, 5), (0.0, 1, 5))  # blur in pixels, stride, and Gauss-Newton steps at them
STRETCH = 0.3  # the largest change of scale that a step may reach
TILE = 14  # pixels
SHOWN = 0.5  # of a tile that must be film in both


def sampled(
    image: Float[Tensor, "b s s"], placement: Float[Tensor, "b 4"]
) -> Float[Tensor, "b s s"]:
    """The image as seen from the other film's grid; 0 beyond its edge.

    `placement` is (scale of rows, of columns, shift of rows, of columns), in units of half a
    film and about its centre.
    """
    size = image.shape[-1]
    at = (torch.arange(size) + 0.5) / size * 2 - 1
    rows = placement[:, 0, None] * at + placement[:, 2, None]
    columns = placement[:, 1, None] * at + placement[:, 3, None]
    grid = torch.stack(
        [columns[:, None, :].expand(-1, size, -1), rows[:, :, None].expand(-1, -1, size)], dim=3
    )
    return grid_sample(image[:, None], grid, align_corners=False)[:, 0]


def _smoothed(image: Float[Tensor, "b s s"], sigma: float) -> Float[Tensor, "b s s"]:
    if not sigma:
        return image
    at = torch.arange(image.shape[-1], dtype=torch.float32)
    apart = (at[:, None] - at).abs() / sigma
    blur = torch.where(apart < 4, torch.exp(-(apart**2) / 2), 0.0)
    blur = blur / blur.sum(1, keepdim=True)
    return blur @ image @ blur.T


def aligned(
    fixed: Float[Tensor, "b s s"],
    shown: Float[Tensor, "b s s"],
    moving: Float[Tensor, "b s s"],
    start: Float[Tensor, "b 4"],
) -> Float[Tensor, "b 4"]:
    """The placement at which `moving` is most like `fixed`, from a start a few pixels away.

    Gauss-Newton on the squared difference (Lucas and Kanade 1981), where `fixed` is `shown`, with
    a gain for contrast and polarity; first on blurred films, then on the films.
    """
    place = start.clone()
    for sigma, stride, steps in STEPS:
        target, source, shown_here = (
            avg_pool2d(_smoothed(image, blur), stride)
            for image, blur in ((fixed, sigma), (moving, sigma), (shown, 0.0))
        )
        size = target.shape[-1]
        at = (torch.arange(size) + 0.5) / size * 2 - 1
        along_rows, along_columns = torch.gradient(source, spacing=2 / size, dim=(1, 2))
        for _ in range(steps):
            calls = sampled(source, place) * shown_here
            gain = (calls * target).sum((1, 2)) / (calls**2).sum((1, 2)).clamp_min(1e-6)
            down = sampled(along_rows, place) * shown_here * gain[:, None, None]
            across = sampled(along_columns, place) * shown_here * gain[:, None, None]
            slopes = torch.stack([down * at[:, None], across * at, down, across], dim=1).flatten(2)
            rest = ((target - gain[:, None, None] * calls) * (calls != 0)).flatten(1)
            normal = slopes @ slopes.mT
            diagonal = normal.diagonal(dim1=1, dim2=2)
            normal = normal + torch.diag_embed(0.01 * diagonal + 1e-3)
            step = torch.linalg.solve(normal, (slopes @ rest[:, :, None])[:, :, 0])
            place = place + step.clamp(-0.1, 0.1)
            place[:, :2] = place[:, :2].clamp(1 - STRETCH, 1 + STRETCH)
            place[:, 2:] = place[:, 2:].clamp(-2 * STRETCH, 2 * STRETCH)
    return place


def agreement(
    one: Float[Tensor, "b s s"], other: Float[Tensor, "b s s"], both: Float[Tensor, "b s s"]
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"], Float[Tensor, " b"]]:
    """(correlation over the overlap, median of its tiles' correlations with the same sign, tiles).

    A tile counts where half of it is film in both. The median is that of a film laid over itself
    wherever most tiles agree, whatever was written or cut into the others; films of one patient
    taken twice agree along some bones and differ in most tiles.
    """
    sums = [
        avg_pool2d((a * b * both)[:, None], TILE)[:, 0].flatten(1)
        for a, b in ((one, other), (one, one), (other, other))
    ]
    area = avg_pool2d(both[:, None], TILE)[:, 0].flatten(1)
    whole = sums[0].sum(1) / (sums[1].sum(1) * sums[2].sum(1)).sqrt().clamp_min(1e-9)
    tile = sums[0] / (sums[1] * sums[2]).sqrt().clamp_min(1e-9) * whole.sign()[:, None]
    counts = area >= SHOWN
    median = torch.where(counts, tile, torch.nan).nanmedian(dim=1).values
    return whole, median.nan_to_num(0), counts.sum(1).float()
