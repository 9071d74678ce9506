"""Teacher and student are compared as the paper's equations say."""

import torch

from nofinding.functional.features.feature_maps import cosine_map, film_cosine, summed_map


def test_cosine_map_is_of_the_channels_at_each_position() -> None:
    a = torch.zeros(1, 2, 1, 4)
    b = torch.zeros(1, 2, 1, 4)
    a[0, :, 0] = torch.tensor([[1.0, 1, 1, 1], [0, 0, 0, 1]])
    b[0, :, 0] = torch.tensor([[5.0, 0, -2, 1], [0, 3, 0, 0]])
    expected = torch.tensor([0, 1, 2, 1 - 0.5**0.5])
    torch.testing.assert_close(cosine_map(a, b)[0, 0, 0], expected)


def test_film_cosine_weighs_positions_by_their_length_and_the_map_does_not() -> None:
    a = torch.tensor([[[[3.0, 4.0]]]])  # one channel, two positions: (3, 4) and (3, -4)
    b = torch.tensor([[[[3.0, -4.0]]]])
    torch.testing.assert_close(film_cosine(a, b), torch.tensor([1 - (9 - 16) / 25]))
    torch.testing.assert_close(cosine_map(a, b)[0, 0, 0], torch.tensor([0.0, 2.0]))


def test_summed_map_adds_scales_with_their_corners_on_the_films() -> None:
    small = torch.tensor([[[[0.0, 3.0], [6.0, 9.0]]]])
    total = summed_map([small, torch.ones(1, 1, 5, 5)], (4, 4), 0)
    torch.testing.assert_close(total[0, 0], 1 + torch.arange(4.0) + 2 * torch.arange(4.0)[:, None])
