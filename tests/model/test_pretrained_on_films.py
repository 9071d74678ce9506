"""The shipped models on real films that they were not fitted on; a few, spread over val."""

import os
from pathlib import Path

import pytest
import torch
from sklearn.metrics import roc_auc_score

from nofinding.data.batch import Films
from nofinding.data.ehr import FIELDS
from nofinding.datasets import SOURCES
from nofinding.model.bundle import load_model
from nofinding.model.pretrained import model_folder
from nofinding.model.runtime_parity import rank_correlation
from nofinding.runtime import Runtime

HERE = Path(__file__).parents[2].parent / "shared" / "data"
DATA = Path(os.environ.get("NOFINDING_DATA", HERE))
EACH = 24


@pytest.mark.films
@pytest.mark.skipif(not (DATA / "kermany" / "films.csv").is_file(), reason=f"no films in {DATA}")
def test_pneumonia_stands_out_and_bfloat16_ranks_alike() -> None:
    exams = list(SOURCES["table"].read(str(DATA / "kermany" / "films.csv"), FIELDS))
    val = [r for r in exams if r.split == "val"]
    parts = [[r for r in val if bool(r.findings) is sick] for sick in (False, True)]
    few = [part[i * len(part) // EACH] for part in parts for i in range(EACH)]
    model = load_model(model_folder("paediatric"))
    films = Films(few, model.detector.stats, model.detector.image_size, model.meta["aspect"])
    batch = films.batch(range(len(films)))
    scores = model.detector.score(batch)
    sick = [bool(exam.findings) for exam in few]
    auroc = roc_auc_score(sick, scores.score)
    assert auroc >= 0.88
    assert auroc > roc_auc_score(sick, batch.image.mean(dim=(1, 2, 3))) + 0.2
    for name in ("taught", "evidence", "focal"):
        assert roc_auc_score(sick, scores.components[name]) >= 0.7, name
    assert scores.anomaly_map is not None
    inside = scores.anomaly_map[:, :, 56:168, 40:184]
    normal = ~torch.tensor(sick)
    assert inside[~normal].mean() > inside[normal].mean()
    model.detector.runtime = Runtime(precision="bfloat16")
    low = model.detector.score(batch).score
    assert rank_correlation(low.double().numpy(), scores.score.double().numpy()) >= 0.99
