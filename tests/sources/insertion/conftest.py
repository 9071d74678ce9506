"""A phantom film, large enough to hold a small nodule."""

import pytest

from nofinding.data.ehr import FIELDS
from nofinding.sources.insertion.scene import Scene, scene_of
from nofinding.sources.phantom import PHANTOM


@pytest.fixture(scope="session")
def scenes() -> list[Scene]:
    records = [r for r in PHANTOM.read("train=4,seed=1,size=160", FIELDS) if r.split == "train"]
    scenes = [scene_of(record.pixels()) for record in records]
    assert all(scenes)
    return [scene for scene in scenes if scene is not None]
