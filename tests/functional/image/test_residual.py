import torch

from nofinding.functional.image import residual


def test_scores_of_a_known_difference() -> None:
    x = torch.zeros(2, 1, 4, 4)
    x[0, 0, 1, 2] = 0.5
    normal = torch.zeros(2, 1, 4, 4)
    assert torch.allclose(residual.mse(x, normal), torch.tensor([0.25 / 16, 0.0]))
    assert torch.allclose(residual.max_abs(x, normal), torch.tensor([0.5, 0.0]))
    assert residual.residual_map(x, -x).amax() == 1.0


def test_min_max_stretches_each_film_by_itself() -> None:
    x = torch.stack([torch.linspace(0.2, 0.6, 16), torch.linspace(0, 0.1, 16)]).reshape(2, 1, 4, 4)
    flat = residual.min_max(x)
    assert torch.allclose(flat[0], flat[1], atol=1e-6)
    assert flat.amin() == 0 and flat.amax() == 1
    assert torch.equal(residual.min_max(torch.full((1, 1, 2, 2), 0.3)), torch.zeros(1, 1, 2, 2))


def test_ssim_is_one_for_equal_films_and_follows_its_formula_for_flat_ones() -> None:
    x = torch.rand(1, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(residual.ssim_map(x, x), torch.ones(1, 1, 32, 32), atol=1e-5)
    a, b = torch.full((1, 1, 32, 32), 0.2), torch.full((1, 1, 32, 32), 0.8)
    luminance = (2 * 0.2 * 0.8 + 1e-4) / (0.2**2 + 0.8**2 + 1e-4)
    assert torch.allclose(residual.ssim_map(a, b), torch.tensor(luminance), atol=1e-3)
    assert residual.ssim_map(x, x.flip(-1)).mean() < 0.5


def test_ssim_takes_films_smaller_than_its_window() -> None:
    x = torch.rand(1, 1, 8, 8)
    assert residual.ssim_map(x, x).shape == x.shape
