import torch

from nofinding.functional.noise import gaussian, generators, integers, uniform


def test_a_row_draws_the_same_whatever_its_neighbours() -> None:
    together = gaussian((1, 4, 4), generators(7, ["a", "b", "c"]))
    alone = gaussian((1, 4, 4), generators(7, ["b"]))
    assert torch.equal(together[1], alone[0])
    assert not torch.equal(together[0], together[1])


def test_seed_and_key_both_count() -> None:
    def draw(seed: int, key: str) -> torch.Tensor:
        return gaussian((8,), generators(seed, [key]))

    assert torch.equal(draw(0, "a"), draw(0, "a"))
    assert not torch.equal(draw(0, "a"), draw(1, "a"))
    assert not torch.equal(draw(1, "1"), draw(11, ""))


def test_distributions() -> None:
    rows = generators(0, range(2000))
    whole = integers(3, 7, rows)
    assert set(whole.tolist()) == {3, 4, 5, 6}
    share = uniform((), rows)
    assert 0.47 < share.mean() < 0.53 and share.min() >= 0 and share.max() < 1
    normal = gaussian((4,), rows)
    assert abs(normal.mean()) < 0.05 and abs(normal.std() - 1) < 0.05
