"""Published lists of films: each format, and lists that are none."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nofinding.datasets.build.splits import Listed, read_lists
from nofinding.errors import UserError


def test_a_csv_with_or_without_labels(tmp_path: Path) -> None:
    file = tmp_path / "lists.csv"
    file.write_text("Path,Split,Label\na/b/x.png,train,0\ny.JPG,Valid,No Finding\nz.1,test,1\n"
                    "u,train,unlabelled\nv,test,\n")  # fmt: skip
    assert [*read_lists(file)] == [
        Listed("a/b/x", "train", "normal"),
        Listed("y", "val", "normal"),
        Listed("z.1", "test", "abnormal"),
        Listed("u", "train", "unlabelled"),
        Listed("v", "test", None),
    ]
    file.write_text("film,split\na\\b.dicom,testing\n")
    assert [*read_lists(file)] == [Listed("a/b", "test", None)]


def test_the_json_of_med_ad(tmp_path: Path) -> None:
    file = tmp_path / "data.json"
    file.write_text(
        json.dumps(
            {
                "train": {"0": ["a.png"], "unlabeled": {"0": ["b.png"], "1": ["c.png"]}},
                "test": {"0": ["d.png"], "1": ["e.png", "f.png"]},
            }
        )
    )
    assert [*read_lists(file)] == [
        Listed("a", "train", "normal"),
        Listed("b", "train", "unlabelled"),
        Listed("c", "train", "unlabelled"),
        Listed("d", "test", "normal"),
        Listed("e", "test", "abnormal"),
        Listed("f", "test", "abnormal"),
    ]


def test_the_folders_of_bmad_with_and_without_img(tmp_path: Path) -> None:
    for path in ("train/good/a.png", "valid/Ungood/img/b.png", "valid/Ungood/label/b.png",
                 "test/good/c.png", "test/Ungood/d.png", "test/Ungood/.DS_Store"):  # fmt: skip
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    assert sorted(read_lists(tmp_path)) == [
        Listed("a", "train", "normal"),
        Listed("b", "val", "abnormal"),
        Listed("c", "test", "normal"),
        Listed("d", "test", "abnormal"),
    ]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.csv", "film,part\na,train\n", "needs the columns film and split"),
        ("a.csv", "", "needs the columns film and split"),
        ("a.csv", "film,split\na,dev\n", "row 2, column split: 'dev' is not one of train"),
        ("a.csv", "film,split\na,train\n,test\n", "row 3, column film: is empty"),
        ("a.csv", "film,split\na\n", "row 2, column split: '' is not one of"),
        ("a.json", "{", "is not JSON"),
        ("a.json", "[" * 100_000, "is not JSON"),
        ("a.json", "[]", "must map train, val, test"),
        ("a.json", '{"train": []}', "train: must map labels"),
        ("a.json", '{"train": {"0": "a"}}', "train: 0: must be a list of file names"),
        ("a.json", '{"train": {"0": [1]}}', "train: 0: must be a list of file names"),
        ("a.json", '{"train": {"0": {"0": ["a"]}}}', "train: 0: must be a list"),
        ("a.json", '{"train": {"unlabeled": {"1": 5}}}', "train: unlabeled: 1: must be a list"),
        ("a.json", '{"dev": {"0": ["a"]}}', "'dev' is not one of train, val, test"),
    ],
)
def test_bad_lists_are_one_line(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError) as caught:
        [*read_lists(tmp_path / name)]
    assert said in str(caught.value) and str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_lists_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"film,split\n\xff,train\n")
    for path, said in ((tmp_path / "a.csv", "is not UTF-8"), (tmp_path / "b", "does not exist"),
                       (tmp_path, "has no films in train/good")):  # fmt: skip
        with pytest.raises(UserError, match=said):
            [*read_lists(path)]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(), st.sampled_from(["a.csv", "a.json"]))
def test_no_list_raises_anything_but_a_user_error(tmp_path: Path, text: str, name: str) -> None:
    (tmp_path / name).write_bytes(b"film,split\n" * name.endswith("csv")
                                  + text.encode("utf-8", "surrogatepass"))  # fmt: skip
    try:
        assert all(row.split in ("train", "val", "test") for row in read_lists(tmp_path / name))
    except UserError as error:
        assert "\n" not in str(error)
