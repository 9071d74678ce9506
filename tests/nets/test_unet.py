import pytest
import torch

from nofinding.methods.diff3m.detector import Diff3M
from nofinding.nets.unet import (
    Decoder,
    Encoder,
    Head,
    Middle,
    TimeEmbedding,
    UNetShape,
    groups_of,
)

SHAPE = UNetShape(
    image_size=16, width=8, multipliers=(1, 2, 2), res_blocks=2, attention_at=(8,), heads=2
)


def test_maps_halve_and_come_back() -> None:
    encoder, middle = Encoder(SHAPE), Middle(SHAPE)
    decoder, head = Decoder(SHAPE), Head(SHAPE)
    embedding = torch.randn(3, SHAPE.embedding)
    skips = encoder(torch.randn(3, 1, 16, 16), embedding)
    assert [s.shape[-1] for s in skips] == [16, 16, 16, 8, 8, 8, 4, 4, 4]
    assert [s.shape[1] for s in skips] == [8, 8, 8, 8, 16, 16, 16, 16, 16]
    out = head(decoder(middle(skips[-1], embedding), skips, embedding))
    assert out.shape == (3, 1, 16, 16)
    assert out.abs().max() == 0  # the last convolution starts at zero


def test_attention_stands_where_the_shape_says() -> None:
    names = [name for name, _ in Encoder(SHAPE).named_modules() if name.endswith("qkv")]
    assert len(names) == SHAPE.res_blocks


def test_time_embedding_begins_with_cosines() -> None:
    embed = TimeEmbedding(8, 4)
    calls: list[torch.Tensor] = []
    embed.first.register_forward_pre_hook(lambda _, inputs: calls.append(inputs[0]))
    embed(torch.tensor([0.0, 10.0]))
    assert calls[0][0].tolist() == [1.0] * 4 + [0.0] * 4
    rates = torch.tensor([1.0, 0.1, 0.01, 0.001])
    torch.testing.assert_close(calls[0][1, 4:], torch.sin(10 * rates))


@pytest.mark.parametrize("preset", sorted(Diff3M.PRESETS))
def test_every_norm_lets_an_added_embedding_through(preset: str) -> None:
    # With one channel a group, GroupNorm subtracts whatever was added to a whole map.
    shape = Diff3M.PRESETS[preset].shape
    for multiplier in shape.multipliers:
        channels = shape.width * multiplier
        assert channels // groups_of(channels, shape.groups) >= 2


def test_scale_shift_differs_from_adding() -> None:
    torch.manual_seed(0)
    shape = UNetShape(
        image_size=16, width=8, multipliers=(1,), res_blocks=1, attention_at=(), scale_shift=True
    )
    block = Encoder(shape).stages[1][0]
    torch.nn.init.normal_(block.conv2.weight)
    x, zero = torch.randn(1, 8, 16, 16), torch.zeros(1, shape.embedding)
    torch.nn.init.zeros_(block.embed.weight)
    torch.nn.init.zeros_(block.embed.bias)
    # No scale and no shift leaves the norm alone, as does no embedding at all.
    torch.testing.assert_close(block(x, zero), block(x, None))
    torch.nn.init.ones_(block.embed.bias)  # scale 1, shift 1
    h = block.norm2(block.conv1(torch.nn.functional.silu(block.norm1(x)))) * 2 + 1
    torch.testing.assert_close(
        block(x, zero), x + block.conv2(torch.nn.functional.silu(h)), rtol=1e-4, atol=1e-5
    )
