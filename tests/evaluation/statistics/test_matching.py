"""Matched pairs: alike within the caliper, one partner each, never across views."""

import numpy as np

from nofinding.evaluation.statistics.matching import CALIPER, matched_pairs
from nofinding.types import Exam, View


def films(views: list[View | None], ids: list[str] | None = None) -> list[Exam]:
    return [
        Exam(
            image_id=f"f{i}" if ids is None else ids[i],
            patient_id=f"p{i}",
            pixels=lambda: np.zeros((2, 2), np.float32),
            ehr={},
            view=view,
        )
        for i, view in enumerate(views)
    ]


def test_pairs_are_close_and_each_film_has_one_partner() -> None:
    rng = np.random.default_rng(0)
    abnormal = np.repeat([False, True], [30, 50])
    about = rng.uniform(size=(80, 2))
    about[abnormal, 1] += 0.8  # brighter: most have no partner
    selection = matched_pairs(films([None] * 80), abnormal, about)
    assert 0 < len(selection) < 60
    assert (~abnormal[selection]).sum() == abnormal[selection].sum() == len(selection) // 2
    scaled = (about - about.mean(0)) / about.std(0)
    far = np.linalg.norm(scaled[selection][:, None] - scaled[selection][None], axis=-1)
    partners = far[np.ix_(~abnormal[selection], abnormal[selection])]
    assert (partners.min(1) < CALIPER).all()
    gap = abs(
        about[selection[~abnormal[selection]], 1].mean()
        - about[selection[abnormal[selection]], 1].mean()
    )
    assert gap < 0.1 < 0.6 < about[abnormal, 1].mean() - about[~abnormal, 1].mean()


def test_views_and_sizes_do_not_mix() -> None:
    about = np.array([[0.2, 0.2], [0.8, 0.8], [0.8, 0.8], [0.2, 0.2]])
    abnormal = np.array([False, True, False, True])
    assert len(matched_pairs(films(["PA", "AP", "PA", "AP"]), abnormal, about)) == 0
    assert len(matched_pairs(films(["PA"] * 4), abnormal, about)) == 4
    ids = ["a@64", "b@320", "c@320", "d@64"]
    assert len(matched_pairs(films([None] * 4, ids), abnormal, about)) == 4
    ids = ["a@64", "b@320", "c@64", "d@320"]
    assert len(matched_pairs(films([None] * 4, ids), abnormal, about)) == 0
