"""The diffusion transformer knows where a cell is and how noisy; it begins by saying nothing."""

import pytest
import torch
from diffusers.models.embeddings import get_2d_sincos_pos_embed
from torch import nn

from nofinding.nets.dit import DiT, grid_positions


def taught(seed: int = 0) -> DiT:
    """One whose gates are open, with weights that nothing taught."""
    torch.manual_seed(seed)
    net = DiT(5, (3, 4), width=16, depth=2, heads=2).eval()
    for module in net.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.2)
    return net


def test_positions_are_those_of_diffusers() -> None:
    expected = get_2d_sincos_pos_embed(24, 6, base_size=6, output_type="pt").float()
    torch.testing.assert_close(grid_positions(6, 6, 24), expected, rtol=0, atol=1e-6)
    assert len(grid_positions(3, 5, 8).unique(dim=0)) == 15
    with pytest.raises(ValueError, match="width 6: give a multiple of 4"):
        grid_positions(2, 2, 6)


def test_it_begins_with_all_gates_shut() -> None:
    net = DiT(5, (3, 4), width=16, depth=2, heads=2)
    z, t = torch.randn(2, 5, 3, 4), torch.tensor([3.0, 700.0])
    assert not net(z, t).any()
    x, level = torch.randn(2, 12, 16), torch.randn(2, 16)
    assert torch.equal(net.blocks[0](x, level), x)


def test_a_block_is_two_gated_branches_behind_modulated_norms() -> None:
    net = taught()
    block, x, level = net.blocks[0], torch.randn(2, 12, 16), torch.randn(2, 16)
    message = block.tell(level)[:, None].chunk(6, dim=-1)

    def norm(y: torch.Tensor) -> torch.Tensor:
        return (y - y.mean(-1, keepdim=True)) / (
            y.var(-1, keepdim=True, correction=0) + 1e-6
        ).sqrt()

    first = norm(x) * (1 + message[1]) + message[0]
    q, k, v = block.qkv(first).chunk(3, dim=-1)
    heads = []
    for part in (slice(0, 8), slice(8, 16)):
        weights = (q[..., part] @ k[..., part].transpose(1, 2) / 8**0.5).softmax(-1)
        heads.append(weights @ v[..., part])
    middle = x + message[2] * block.out(torch.cat(heads, dim=-1))
    expected = middle + message[5] * block.mlp(norm(middle) * (1 + message[4]) + message[3])
    torch.testing.assert_close(block(x, level), expected, rtol=1e-4, atol=1e-5)


def test_place_level_and_far_cells_matter_and_neighbours_of_a_batch_do_not() -> None:
    net = taught()
    z = torch.randn(2, 5, 3, 4)
    both = net(z, torch.tensor([10.0, 900.0]))
    torch.testing.assert_close(net(z[1:], torch.tensor([900.0])), both[1:], rtol=1e-4, atol=1e-5)
    assert (net(z, torch.tensor([10.0])) - both)[1].abs().max() > 1e-2
    other = z.clone()
    other[:, :, 0, 0] += 1
    assert (
        (net(other, torch.tensor([10.0])) - net(z, torch.tensor([10.0])))[:, :, 2, 3] != 0
    ).any()
    same = net(torch.ones(1, 5, 3, 4), torch.tensor([10.0]))
    assert (same - same[:, :, :1, :1]).abs().max() > 1e-3  # alike cells, other places


def test_what_is_not_allowed() -> None:
    with pytest.raises(ValueError, match="heads 3: give a number that divides 16"):
        DiT(5, (3, 4), width=16, depth=2, heads=3)
