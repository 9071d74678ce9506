"""A phantom film, large enough to hold a small nodule."""

import pytest

from nofinding.data.ehr import FIELDS
from nofinding.datasets.insertion.scene import Scene, scene_of
from nofinding.datasets.phantom import PHANTOM


@pytest.fixture(scope="session")
def scenes() -> list[Scene]:
    exams = [r for r in PHANTOM.read("train=4,seed=1,size=160", FIELDS) if r.split == "train"]
    scenes = [scene_of(exam.pixels()) for exam in exams]
    assert all(scenes)
    return [scene for scene in scenes if scene is not None]
