"""The threshold of maps: of all calibration films, or of some that are spread over all."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nofinding.types import Batch, Scores
from nofinding.workflows import fit


class Numbers:
    """Films whose map is their own number everywhere."""

    def __len__(self) -> int:
        return 10

    def batch(self, rows: range) -> Batch:
        image = torch.tensor([float(row) for row in rows])[:, None, None, None].expand(-1, 1, 4, 4)
        return Batch(image, torch.zeros(len(rows), 0), torch.zeros(len(rows), 0).bool(),
                     tuple(map(str, rows)))  # fmt: skip


@pytest.mark.parametrize(
    ("most", "count"), [(1000, range(10)), (3, (0, 4, 8)), (5, range(0, 10, 2))]
)
@pytest.mark.parametrize("batch", [3, 10])
def test_the_films_of_the_threshold(
    most: int, count: Any, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[list[float]] = []

    def threshold(maps: list[Any]) -> float:
        calls.append([float(each()[0, 0]) for each in maps])
        return 0.0

    monkeypatch.setattr(fit, "THRESHOLD_FILMS", most)
    monkeypatch.setattr(fit, "BATCH", batch)
    monkeypatch.setattr(fit, "normal_threshold", threshold)
    detector: Any = SimpleNamespace(
        score=lambda batch, seed: Scores(score=batch.image[:, 0, 0, 0], anomaly_map=batch.image)
    )
    films: Any = Numbers()
    scores, _ = fit._calibrated(detector, films, seed=0)
    assert scores.tolist() == [float(i) for i in range(10)]  # each film is scored all the same
    assert calls == [[float(i) for i in count]]
