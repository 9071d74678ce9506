"""The selective scan is Mamba's recurrence, and MambaAD's blocks are what its paper draws."""

import pytest
import torch
import torch.nn.functional as F
from mambapy.mamba import MambaBlock, MambaConfig
from torch import Tensor, nn

from nofinding.functional.features.hilbert import directions
from nofinding.nets.state_space import (
    HalfFPN,
    HybridScan,
    LocalStateSpace,
    MambaDecoder,
    PatchExpand,
    selective_scan,
)


def one_by_one(u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, skip: Tensor) -> Tensor:
    """The recurrence as it is written, one cell after the other."""
    rows, length, k, d = u.shape
    h = torch.zeros(rows, k, d, a.shape[-1], dtype=u.dtype)
    collected = []
    for t in range(length):
        decay = torch.exp(delta[:, t, :, :, None] * a)
        h = decay * h + delta[:, t, :, :, None] * b[:, t, :, None, :] * u[:, t, :, :, None]
        collected.append((h * c[:, t, :, None, :]).sum(-1) + skip * u[:, t])
    return torch.stack(collected, dim=1)


def numbers(length: int, k: int = 2, d: int = 3, n: int = 4) -> list[Tensor]:
    torch.manual_seed(0)
    return [
        torch.randn(2, length, k, d),
        F.softplus(torch.randn(2, length, k, d)),
        -torch.rand(k, d, n) * 2,
        torch.randn(2, length, k, n),
        torch.randn(2, length, k, n),
        torch.randn(k, d),
    ]


@pytest.mark.parametrize("length", [1, 2, 4, 9, 16, 25, 64])
def test_in_parallel_as_one_by_one(length: int) -> None:
    given = [x.double().requires_grad_() for x in numbers(length)]
    result, expected = selective_scan(*given), one_by_one(*given)
    torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-9)
    weights = torch.randn(expected.shape, dtype=torch.float64)
    here = torch.autograd.grad((result * weights).sum(), given)
    there = torch.autograd.grad((expected * weights).sum(), given)
    for a, b in zip(here, there, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-7)


def test_as_mambapys_own_block_scans() -> None:
    u, delta, a, b, c, skip = numbers(10, k=1)
    block = MambaBlock(MambaConfig(d_model=3, n_layers=1, expand_factor=1, d_state=4))
    expected = block.selective_scan_seq(
        u[:, :, 0], delta[:, :, 0], a[0], b[:, :, 0], c[:, :, 0], skip
    )
    result = selective_scan(u, delta, a, b, c, skip)[:, :, 0]
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)


def scan(side: int = 4, ways: int = 8) -> HybridScan:
    torch.manual_seed(1)
    return HybridScan(6, side, state=3, expand=2, ways=ways).eval()


def test_walks_follow_the_curve_and_come_back_to_their_cells() -> None:
    net = scan()
    x = torch.randn(2, 12, 4, 4)
    walks = net.walks(x)
    for way, order in enumerate(directions(4)):
        assert torch.equal(walks[:, :, way], x.flatten(2)[:, :, order].transpose(1, 2))
    torch.testing.assert_close(net.unwalked(walks), 8 * x.flatten(2).transpose(1, 2))


def test_the_scan_is_the_gated_recurrence_of_every_direction_added_up() -> None:
    net = scan()
    x = torch.randn(2, 4, 4, 6)
    inside, gate = net.into(x).chunk(2, dim=-1)
    u = F.silu(net.near(inside.permute(0, 3, 1, 2))).flatten(2).transpose(1, 2)  # (b, l, d)
    total = torch.zeros_like(u)
    for way, order in enumerate(directions(4)):
        walk = u[:, order]
        rough, b, c = (walk @ net.select[way]).split([net.rank, 3, 3], dim=-1)
        delta = F.softplus(rough @ net.step[way] + net.step_bias[way])
        a = -net.log_a[way].exp()
        y = one_by_one(
            walk[:, :, None], delta[:, :, None], a[None], b[:, :, None], c[:, :, None],
            net.skip[way][None],
        )  # fmt: skip
        total[:, order] += y[:, :, 0]
    expected = net.out(net.norm(total).reshape(2, 4, 4, 12) * F.silu(gate))
    torch.testing.assert_close(net(x), expected, rtol=1e-4, atol=1e-5)


def test_every_cell_hears_of_every_other_only_through_the_scan() -> None:
    net = LocalStateSpace(6, 16, depth=1, kernels=(5, 7), state=3, expand=1, ways=8).double()
    for near in net.near:  # their instance normalisation looks at the whole map, too
        for module in near:
            if isinstance(module, nn.InstanceNorm2d):
                module.forward = lambda x: x  # type: ignore[method-assign]
    x = torch.randn(1, 16, 16, 6, dtype=torch.float64)  # what is far away is heard faintly
    other = x.clone()
    other[0, 2, 3] = torch.randn(6)
    changed = (net(other) - net(x)).abs().sum(-1)[0] > 1e-12
    assert changed.all()
    for block in net.far:
        nn.init.zeros_(block.scan.out.weight)
    changed = (net(other) - net(x)).abs().sum(-1)[0] > 1e-12
    rows, columns = changed.nonzero(as_tuple=True)
    assert rows.max() == 2 + 3 and columns.max() == 3 + 3  # half of 7 to either side


def test_a_module_adds_its_joined_parts_to_its_input() -> None:
    net = LocalStateSpace(4, 4, depth=2, kernels=(5, 7), state=2, expand=1, ways=8).eval()
    x = torch.randn(1, 4, 4, 4)
    first = x.permute(0, 3, 1, 2)
    parts = [net.far(x).permute(0, 3, 1, 2), net.near[0](first), net.near[1](first)]
    expected = x + net.join(torch.cat(parts, 1)).permute(0, 2, 3, 1)
    torch.testing.assert_close(net(x), expected)
    assert [near[3].kernel_size for near in net.near] == [(5, 5), (7, 7)]
    assert all(near[3].groups == 4 for near in net.near)
    assert len(net.far) == 2


def test_a_patch_becomes_four_in_its_own_place() -> None:
    net = PatchExpand(3, 2)
    x = torch.zeros(1, 2, 2, 3)
    x[0, 1, 0] = 1
    net.norm = nn.Identity()  # type: ignore[assignment]
    visible = net(x)[0].abs().sum(-1) > 0
    low = [True] * 2 + [False] * 2
    assert visible.tolist() == [[False] * 4, [False] * 4, low, low]


def test_published_depths_make_modules_of_three_or_two() -> None:
    scans = {"state": 2, "expand": 1, "ways": 2, "kernels": (5, 7)}
    net = MambaDecoder((4, 8, 16), 32, 2, (3, 4, 6, 3), **scans).eval()
    assert [[len(m.far) for m in each] for each in net.stages] == [[3], [2, 2], [3, 3], [3]]
    prediction = net(torch.randn(2, 32, 2, 2))
    assert [m.shape for m in prediction] == [(2, 4, 16, 16), (2, 8, 8, 8), (2, 16, 4, 4)]


def test_the_half_fpn_adds_finer_scales_to_coarser_ones() -> None:
    torch.manual_seed(0)
    net = HalfFPN((4, 6, 8), 10, 2).eval()
    maps = [torch.randn(3, c, s, s) for c, s in zip((4, 6, 8), (16, 8, 4), strict=True)]
    code = net(maps)
    assert code.shape == (3, 10, 2, 2)
    middle = net.halve[0](maps[0]) + net.side[0](maps[1])
    expected = net.embed(net.fuse(net.halve[1](middle) + net.side[1](maps[2])))
    torch.testing.assert_close(code, expected)
    for level in range(3):
        other = [m + (i == level) for i, m in enumerate(maps)]
        assert (net(other) - code).abs().max() > 1e-4
