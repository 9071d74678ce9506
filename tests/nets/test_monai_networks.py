"""The autoencoders and U-Nets of latent diffusion, of films and of volumes."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from nofinding.errors import UserError
from nofinding.functional.noise import generators
from nofinding.nets.monai_networks import Codec, CodecShape, LatentPair, LatentShape, spectral_gap

UNET = LatentShape(channels=(8, 16), res_blocks=1, norm_groups=4)


def shape(**changes: object) -> CodecShape:
    settings: dict[str, object] = {
        "kind": "vq",
        "dimensions": 2,
        "channels": (8, 16),
        "res_blocks": 1,
        "latent_channels": 3,
        "codes": 16,
        "decay": 0.9,
        "norm_groups": 4,
    }
    return CodecShape(**{**settings, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def image(rows: int, dimensions: int, side: int = 16) -> Tensor:
    generator = torch.Generator().manual_seed(rows)
    return torch.rand(rows, 1, *(side,) * dimensions, generator=generator) * 2 - 1


@pytest.mark.parametrize("dimensions", [2, 3])
@pytest.mark.parametrize("kind", ["vq", "kl"])
def test_there_and_back_on_a_grid_a_quarter_as_fine(kind: str, dimensions: int) -> None:
    pair = LatentPair(shape(kind=kind, dimensions=dimensions), UNET).eval()
    x = image(2, dimensions)
    with torch.no_grad():
        z = pair.encode(x)
        assert (
            z.shape
            == (2, 3, *(shape().latent_size(16),) * dimensions)
            == (2, 3, *(4,) * dimensions)
        )
        assert pair.decode(z).shape == x.shape
        assert pair(z, torch.tensor([500.0])).shape == z.shape
        alone = pair.decode(pair.encode(x[1:]))
        torch.testing.assert_close(alone, pair.decode(z)[1:])
        assert torch.equal(pair.encode(x), z)  # nothing is drawn


def test_a_vq_latent_is_made_of_codes_and_decoding_takes_the_nearest() -> None:
    codec = Codec(shape()).eval()
    codec.begin_codes(image(4, 2), torch.Generator().manual_seed(0))
    codes = codec.net.quantizer.quantizer.embedding.weight
    with torch.no_grad():
        z = codec.encode(image(2, 2))
        # Taken directly: the fast form of the distance loses the digits that are asked for.
        apart = z.movedim(1, -1).reshape(-1, 1, 3) - codes
        nearest = apart.square().sum(-1).sqrt().min(1).values
        assert nearest.max() < 1e-5
        step = torch.pdist(codes)
        step = step[step > 1e-6].min()
        torch.testing.assert_close(codec.decode(z + 0.2 * step), codec.decode(z))


def test_codes_begin_where_films_are_and_most_are_used_after_an_update() -> None:
    def used(begin: bool) -> int:
        torch.manual_seed(0)
        codec = Codec(shape())
        x = image(8, 2)
        if begin:
            codec.begin_codes(x, torch.Generator().manual_seed(0))
        codec.train()
        for _ in range(3):
            codec(x, [])
        quantizer = codec.net.quantizer.quantizer
        return int(quantizer.quantize(codec.net.encode(x))[2].unique().numel())

    assert used(True) > 12 > used(False)


def test_a_kl_latent_is_drawn_by_the_rows_and_priced_by_its_divergence() -> None:
    codec = Codec(shape(kind="kl")).eval()
    x = image(2, 2)
    with torch.no_grad():
        first, price = codec(x, generators(0, ["a", "b"]))
        again, _ = codec(x, generators(0, ["a", "b"]))
        other, _ = codec(x, generators(0, ["a", "c"]))
        mean, std = codec.net.encode(x)
    assert torch.equal(first, again) and torch.equal(first[0], other[0])
    assert not torch.equal(first[1], other[1])
    normal = torch.distributions.Normal(mean, std)
    expected = torch.distributions.kl_divergence(
        normal, torch.distributions.Normal(0.0, 1.0)
    ).mean()
    torch.testing.assert_close(price, expected)


def test_latents_are_standardised_channel_by_channel() -> None:
    pair = LatentPair(shape(kind="kl"), UNET).eval()
    x = image(6, 2)
    with torch.no_grad():
        pair.measure([pair.codec.encode(x[:2]), pair.codec.encode(x[2:])])
        z = pair.encode(x)
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(3), atol=1e-3, rtol=0)
    torch.testing.assert_close(z.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-3, rtol=0)


def test_the_spectrum_ignores_a_shift_and_sees_a_blur() -> None:
    x = image(2, 2)
    assert spectral_gap(x, x.roll(3, -1)) < 1e-9
    blurred = torch.nn.functional.avg_pool2d(x, 3, 1, 1)
    assert spectral_gap(x, blurred) > 0.01
    from monai.losses.spectral_loss import JukeboxLoss

    # Theirs transforms along channels, too; with one channel that changes nothing.
    torch.testing.assert_close(spectral_gap(x, blurred), JukeboxLoss(2)(x, blurred))
    assert torch.isfinite(
        torch.autograd.grad(spectral_gap(w := x.clone().requires_grad_(), 0 * x), w)[0]
    ).all()


@pytest.mark.parametrize(
    ("change", "size", "said"),
    [
        ({"dimensions": 4}, 16, "dimensions 4"),
        ({"channels": ()}, 16, "codec.channels"),
        ({}, 18, "image_size 18: give a multiple of 4"),
        ({"codes": 0}, 16, "codec.codes 0"),
        ({"decay": 1.0}, 16, "codec.decay 1"),
        ({"kind": "kl", "norm_groups": 3}, 16, "codec.norm_groups: 3"),
    ],
)
def test_impossible_shapes_are_refused(change: dict[str, object], size: int, said: str) -> None:
    with pytest.raises(UserError, match=said):
        shape(**change).require_fits(size)


@pytest.mark.parametrize(
    ("unet", "said"),
    [
        (LatentShape(channels=(), res_blocks=1, norm_groups=4), "unet.channels"),
        (LatentShape(channels=(8, 8, 8, 8), res_blocks=1, norm_groups=4), "latent of side 4"),
        (LatentShape(channels=(6,), res_blocks=1, norm_groups=4), "unet.norm_groups: 4"),
    ],
)
def test_impossible_unets_are_refused(unet: LatentShape, said: str) -> None:
    with pytest.raises(UserError, match=said):
        unet.require_fits(4)
