"""Neighbours and coresets, against scikit-learn and against the plain definition."""

import numpy as np
import pytest
import torch
from sklearn.metrics import pairwise_distances
from sklearn.neighbors import NearestNeighbors
from torch import Generator, Tensor

from nofinding.functional.features.neighbours import k_centre, nearest, random_projection


def points(count: int, seed: int, offset: float = 0.0) -> Tensor:
    return torch.randn(count, 12, generator=Generator().manual_seed(seed)) + offset


@pytest.mark.parametrize("chunk", [7, 64, 4096])
@pytest.mark.parametrize("k", [1, 5])
def test_nearest_agrees_with_scikit_learn(k: int, chunk: int) -> None:
    query, memory = points(50, 0), points(300, 1)
    distance, place = nearest(query, memory, k, chunk=chunk)
    expected, index = (
        NearestNeighbors(n_neighbors=k, algorithm="brute").fit(memory).kneighbors(query)
    )
    np.testing.assert_allclose(distance, expected, rtol=1e-5)
    np.testing.assert_array_equal(place, index)


def test_nearest_finds_the_right_point_far_from_the_origin() -> None:
    """Without centring, the squares that cancel are rounded to thousands: far over a distance."""
    memory = points(200, 2, offset=1e5)
    query = memory[:20] + 0.25
    distance, place = nearest(query, memory)
    assert torch.equal(place[:, 0], torch.arange(20))
    exact = (query.double() - memory[:20].double()).norm(dim=1)
    torch.testing.assert_close(distance[:, 0].double(), exact, rtol=0, atol=0.05)


def test_a_remembered_point_is_at_distance_zero_and_rows_are_independent() -> None:
    memory = points(200, 3)
    distance, _ = nearest(memory, memory, 3)
    assert (distance[:, 0] == 0).all()
    alone = torch.cat([nearest(memory[i : i + 1], memory, 3)[0] for i in range(len(memory))])
    torch.testing.assert_close(alone, distance, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("k", [0, 6])
def test_nearest_refuses_more_neighbours_than_points(k: int) -> None:
    with pytest.raises(ValueError, match=f"k = {k} neighbours of 5 points"):
        nearest(points(2, 0), points(5, 1), k)


def test_k_centre_is_the_greedy_algorithm_and_twice_as_far_as_the_best_at_most() -> None:
    cloud = points(120, 4)
    result, radius = k_centre(cloud, 9, Generator().manual_seed(0))
    selection = result.numpy()
    distances = pairwise_distances(cloud.double())
    for n in range(1, 9):  # each is the one farthest from those before
        to_set = distances[:, selection[:n]].min(1)
        assert to_set[selection[n]] == pytest.approx(to_set.max(), rel=1e-5)
    assert radius == pytest.approx(distances[:, selection].min(1).max(), rel=1e-5)
    # Nine chosen and one more lie `radius` apart pairwise, so two share a centre of any nine.
    with_next = [*selection.tolist(), int(distances[:, selection].min(1).argmax())]
    apart = distances[np.ix_(with_next, with_next)] + 1e9 * np.eye(10)
    assert apart.min() >= radius * (1 - 1e-5)


def test_k_centre_finds_one_point_of_every_cluster_and_never_the_same_twice() -> None:
    clusters = torch.eye(6).mul(100).repeat_interleave(10, 0)  # 60 points, 6 places
    indices, radius = k_centre(clusters, 6, Generator().manual_seed(1))
    assert sorted((indices // 10).tolist()) == list(range(6))
    assert radius == 0
    everything, _ = k_centre(clusters, 60, Generator().manual_seed(1))
    assert sorted(everything.tolist()) == list(range(60))


def test_k_centre_follows_its_generator() -> None:
    cloud = points(80, 5)
    first, _ = k_centre(cloud, 5, Generator().manual_seed(2))
    again, _ = k_centre(cloud, 5, Generator().manual_seed(2))
    other, _ = k_centre(cloud, 5, Generator().manual_seed(3))
    assert torch.equal(first, again)
    assert first[0] != other[0]
    with pytest.raises(ValueError, match="a coreset of 81 from 80 points"):
        k_centre(cloud, 81, Generator())


def test_a_long_choice_says_how_far_it_is() -> None:
    indices: list[int] = []
    k_centre(points(30, 6), 5, Generator().manual_seed(0), indices.append)
    assert indices == [2, 3, 4, 5]


def test_a_random_projection_keeps_distances_on_average() -> None:
    cloud = torch.randn(60, 400, generator=Generator().manual_seed(7))
    result = random_projection(cloud, 64, Generator().manual_seed(8))
    assert result.shape == (60, 64)
    ratio = torch.pdist(result).square() / torch.pdist(cloud).square()
    assert ratio.mean() == pytest.approx(1, abs=0.03)
    assert ratio.std() == pytest.approx((2 / 64) ** 0.5, rel=0.25)  # of a chi-square over 64
    assert random_projection(cloud, 400, Generator()) is cloud
