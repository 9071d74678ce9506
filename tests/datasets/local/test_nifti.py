"""NIfTI volumes: upright, in proportion, in [0, 1]; and files that are none or mean harm."""

import gzip
import io
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nofinding.data.batch import Films
from nofinding.data.cache.film_cache import FilmCache
from nofinding.data.decoding.decode import VolumeFile
from nofinding.data.ehr import FIELDS, EhrStats
from nofinding.data.image import fit_cube, fit_cube_mask, resample
from nofinding.datasets import SOURCES
from nofinding.datasets.local.table import Table
from nofinding.errors import UserError
from nofinding.types import Exam

NO_RECORD = EhrStats.of([], [])


def ramp(shape: tuple[int, int, int] = (4, 5, 6)) -> np.ndarray:
    """Right, front, up: each voxel another value."""
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def saved(path: Path, values: np.ndarray, affine: np.ndarray | None = None) -> VolumeFile:
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4) if affine is None else affine), path)
    return VolumeFile(path)


def test_slices_go_up_rows_to_the_back_and_columns_to_the_left(tmp_path: Path) -> None:
    body = np.zeros((8, 9, 10), np.float32)
    body[7, 4, 5] = 1  # far right
    body[4, 8, 5] = 1  # far front
    body[4, 4, 9] = 1  # top
    result = saved(tmp_path / "a.nii.gz", body)()
    assert result.shape == (10, 9, 8) and result.dtype == np.float32
    expected = np.zeros_like(result)
    expected[5, 4, 0] = expected[5, 0, 3] = expected[9, 4, 3] = 1
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, -1), (-1, -1, 1)])
def test_however_it_was_stored_it_is_the_same_volume(
    tmp_path: Path, flips: tuple[int, ...]
) -> None:
    expected = saved(tmp_path / "a.nii", ramp())()
    stored = ramp()[tuple(slice(None, None, f) for f in flips)].transpose(2, 0, 1)
    affine = np.zeros((4, 4))
    for axis, flip in enumerate(flips):
        affine[axis, (1, 2, 0)[axis]] = flip
    affine[:3, 3], affine[3, 3] = 7, 1
    np.testing.assert_array_equal(saved(tmp_path / "b.nii", stored, affine)(), expected)


def test_greys_span_the_percentiles_of_the_volume(tmp_path: Path) -> None:
    values = ramp((10, 10, 10)) - 400
    values[0, 0, 0] = 1e6  # one hot voxel
    result = saved(tmp_path / "a.nii.gz", values)()
    low, high = np.percentile(values, [0.5, 99.5])
    expected = np.clip((values - low) / (high - low), 0, 1)[::-1, ::-1].transpose(2, 1, 0)
    np.testing.assert_allclose(result, expected, atol=1e-4)
    holes = values.copy()
    holes[3:5] = np.nan
    result = saved(tmp_path / "b.nii.gz", holes)()
    assert np.isfinite(result).all() and result[:, :, 5:7].max() == 0
    assert saved(tmp_path / "c.nii.gz", np.full((4, 4, 4), 7.0, np.float32))().max() == 0


@pytest.mark.parametrize("kind", ["uint8", "int16", "uint16", "int32", "float32", "float64", ">i2"])
def test_kinds_of_numbers_and_scales(tmp_path: Path, kind: str) -> None:
    expected = saved(tmp_path / "a.nii", ramp())()
    image = nibabel.Nifti1Image(ramp().astype(kind), np.eye(4))
    image.header.set_slope_inter(2.0, -50)
    image.header["vox_offset"] = 352
    nibabel.save(image, tmp_path / "b.nii")
    np.testing.assert_allclose(VolumeFile(tmp_path / "b.nii")(), expected, atol=1e-4)
    nibabel.save(nibabel.Nifti2Image(ramp(), np.eye(4)), tmp_path / "c.nii.gz")
    np.testing.assert_array_equal(VolumeFile(tmp_path / "c.nii.gz")(), expected)


def test_thick_slices_become_cubes_and_long_sides_are_shortened(tmp_path: Path) -> None:
    affine = np.diag([1.0, 1.0, 4.0, 1.0])
    assert saved(tmp_path / "a.nii", ramp((8, 8, 5)), affine)().shape == (20, 8, 8)
    assert saved(tmp_path / "b.nii.gz", np.zeros((600, 300, 6), np.uint8))().shape == (3, 128, 256)


def test_a_mask_lies_on_the_grid_of_its_volume(tmp_path: Path) -> None:
    affine = np.diag([1.0, 1.0, 3.0, 1.0])
    drawn = np.zeros((8, 8, 4), np.uint8)
    drawn[2:4, 3:5, 1] = 5
    saved(tmp_path / "m.nii.gz", drawn, affine)
    result = VolumeFile(tmp_path / "m.nii.gz", mask=True)()
    assert (
        result.shape == saved(tmp_path / "v.nii.gz", ramp((8, 8, 4)), affine)().shape == (12, 8, 8)
    )
    where = np.argwhere(result > 0)
    assert where.min(0).tolist() == [3, 3, 4] and where.max(0).tolist() == [5, 4, 5]
    assert set(np.unique(result)) == {0.0, 1.0}


def header(**changes: Any) -> bytes:
    """The bytes of a small volume with a header that says something else."""
    image = nibabel.Nifti1Image(ramp((8, 8, 8)), np.eye(4))
    data = bytearray(image.to_bytes())
    head = nibabel.Nifti1Header.from_fileobj(io.BytesIO(bytes(data)), check=False)
    for name, value in changes.items():
        head[name] = value
    data[:348] = head.binaryblock
    return bytes(data)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("text.nii", b"PatientName=Somebody" * 40, "is not a NIfTI file"),
        ("empty.nii", b"", "is not a NIfTI file"),
        ("short.nii", header()[:200], "damaged or cut short"),
        ("cut.nii", header()[:-1], "damaged or cut short"),
        ("cut.nii.gz", gzip.compress(header(), mtime=0)[:-300], "damaged or cut short"),
        ("rubbish.nii.gz", b"\x1f\x8brubbish", "damaged or cut short"),
        ("huge.nii", header(dim=[3, 5000, 1, 1, 1, 1, 1, 1]), "5000 x 1 x 1 voxels"),
        ("big.nii", header(dim=[3, 2000, 2000, 2000, 1, 1, 1, 1]), "2000 x 2000 x 2000 voxels"),
        ("none.nii", header(dim=[3, 0, 8, 8, 1, 1, 1, 1]), "has no voxels"),
        ("minus.nii", header(dim=[3, -8, 8, 8, 1, 1, 1, 1]), "has no voxels"),
        ("flat.nii", header(dim=[2, 8, 8, 1, 1, 1, 1, 1]), "has 2 dimensions"),
        ("film.nii", header(dim=[4, 8, 8, 4, 2, 1, 1, 1]), "has 4 dimensions"),
        ("pair.nii", header(magic=b"ni1"), "is not a NIfTI file with its voxels inside"),
        ("complex.nii", header(datatype=32, bitpix=64), "no plain numbers"),
        ("odd.nii", header(datatype=999), "damaged or cut short"),
        ("before.nii", header(vox_offset=0), "impossible place"),
        ("after.nii", header(vox_offset=1e9), "impossible place"),
        ("nowhere.nii", header(vox_offset=float("nan")), "impossible place"),
        ("turned.nii", header(sform_code=1, srow_x=[0, 0, 0, 0]), "no usable orientation"),
        ("nan.nii", header(sform_code=1, srow_x=[np.nan, 0, 0, 0]), "no usable orientation"),
    ],
)
def test_what_is_no_volume_is_refused_in_one_line(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(UserError, match=said) as caught:
        VolumeFile(file, "volumes.csv: row 7")()
    assert str(caught.value).startswith(f"volumes.csv: row 7: {file} ")
    assert "\n" not in str(caught.value) and "Somebody" not in str(caught.value)


def test_a_gz_is_not_inflated_beyond_what_its_header_promises(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.nii.gz"
    with gzip.open(bomb, "wb", compresslevel=1) as file:
        file.write(header())
        for _ in range(64):
            file.write(bytes(2**22))
    assert VolumeFile(bomb)().shape == (8, 8, 8)
    promised = tmp_path / "promised.nii.gz"
    promised.write_bytes(gzip.compress(header(dim=[3, 640, 640, 600, 1, 1, 1, 1])))
    with pytest.raises(UserError, match="damaged or cut short"):
        VolumeFile(promised)()


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_damage_never_raises_anything_but_a_user_error(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(header())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, 360))] = data.draw(st.integers(0, 255))
    file = tmp_path / "a.nii"
    file.write_bytes(content[: data.draw(st.integers(300, len(content)))])
    try:
        result = VolumeFile(file)()
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert result.ndim == 3 and result.min() >= 0 and result.max() <= 1


def folder(path: Path, rows: str) -> str:
    for name in ("a", "b"):
        saved(path / f"{name}.nii.gz", ramp())
    (path / "m.nii").write_bytes(b"")
    saved(path / "m.nii", (ramp() > 100).astype(np.uint8))
    (path / "volumes.csv").write_text(rows)
    return str(path)


def test_a_folder_is_read_with_the_columns_of_a_table(tmp_path: Path) -> None:
    root = folder(
        tmp_path,
        "path,patient_id,split,findings,age,weight [lb],mask\n"
        "a.nii.gz,p1,train,,63,100,\nb.nii.gz,p2,val,Nodule,,,m.nii\n",
    )
    first, second = SOURCES["nifti"].read(root, FIELDS)
    assert (first.image_id, first.patient_id, first.split) == ("a", "p1", "train")
    assert first.findings == frozenset() and second.findings == {"Nodule"}
    assert first.ehr["age"] == 63 and first.ehr["weight"] == pytest.approx(45.36, abs=0.01)
    assert SOURCES["nifti"].offers(root, FIELDS) == ("age", "weight")
    assert first.lesion is None and second.lesion is not None
    assert second.lesion().shape == second.pixels().shape == (6, 5, 4)
    assert second.lesion().sum() == (ramp() > 100).sum()


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("path\nnone.nii\n", r"none\.nii does not exist"),
        ("path,split\na.nii.gz,often\n", "column split: 'often' is not one of"),
        ("file\na.nii.gz\n", "has no column 'path'"),
        ("path,age\na.nii.gz,old\n", "column age"),
        ("path,image_id\na.nii.gz,x\nb.nii.gz,x\n", "image_id 'x' is in row 2 and in row 3"),
    ],
)
def test_a_bad_folder_is_refused_in_one_line(tmp_path: Path, rows: str, said: str) -> None:
    root = folder(tmp_path, rows)
    with pytest.raises(UserError, match=said) as caught:
        for exam in SOURCES["nifti"].read(root, FIELDS):
            exam.pixels.check()  # type: ignore[attr-defined]
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="is not a folder; give the one that holds volumes"):
        list(SOURCES["nifti"].read(str(tmp_path / "volumes.csv"), FIELDS))
    (tmp_path / "volumes.csv").unlink()
    with pytest.raises(UserError, match=r"volumes\.csv: does not exist"):
        list(SOURCES["nifti"].read(root, FIELDS))


def test_a_table_of_films_does_not_take_a_volume(tmp_path: Path) -> None:
    folder(tmp_path, "path\na.nii.gz\n")
    (exam,) = Table().read(str(tmp_path / "volumes.csv"), FIELDS)
    with pytest.raises(UserError, match="not a PNG, JPEG or DICOM file"):
        exam.pixels()


def test_a_cube_keeps_proportions_and_comes_from_the_cache_as_it_went(tmp_path: Path) -> None:
    volume = np.ones((4, 8, 16), np.float32)
    cube = fit_cube(volume, 8)
    inside = np.zeros((8, 8, 8), bool)
    inside[3:5, 2:6, :] = True
    assert cube.dtype == np.uint16 and ((cube > 0) == inside).all()
    assert (fit_cube(volume, 8, "squash") == 65535).all()
    assert (fit_cube_mask(volume, 8) == inside).all()
    dot = np.zeros((16, 16, 16))
    dot[9, 5, 3] = 1
    assert np.argwhere(fit_cube_mask(dot, 4)).tolist() == [[2, 1, 0]]
    coarse = resample(ramp((8, 8, 8)), (4, 4, 4))
    means = ramp((8, 8, 8)).reshape(4, 2, 4, 2, 4, 2).mean((1, 3, 5))
    np.testing.assert_allclose(coarse[1:-1, 1:-1, 1:-1], means[1:-1, 1:-1, 1:-1], rtol=1e-4)

    file = saved(tmp_path / "a.nii.gz", ramp())
    exam = Exam(image_id="a", patient_id="a", pixels=file, ehr={})
    cache = FilmCache(tmp_path / "cache")
    plain = Films([exam], NO_RECORD, 8, dimensions=3).batch([0]).image
    for _ in range(2):
        result = Films([exam], NO_RECORD, 8, cache=cache, dimensions=3).batch([0]).image
        assert result.shape == (1, 1, 8, 8, 8) and (result == plain).all()
    assert len(list((tmp_path / "cache").rglob("*.film"))) == 1


def test_a_part_of_the_films_shares_what_was_decoded() -> None:
    asked: list[int] = []

    class Slow:
        def __init__(self, value: float) -> None:
            self.value = value

        def __call__(self) -> np.ndarray:
            asked.append(1)
            return np.full((4, 4), self.value, np.float32)

    exams = [Exam(image_id=f"f{i}", patient_id="p", pixels=Slow(i / 4), ehr={}) for i in range(4)]
    films = Films(exams, NO_RECORD, 4)
    part = films.part([3, 1])
    assert part.ids == ("f3", "f1") and len(part) == 2
    batch = part.batch([0, 1])
    assert batch.ids == ("f3", "f1")
    assert batch.image.mean((1, 2, 3)).tolist() == pytest.approx([0.5, -0.5], abs=1e-3)
    assert (films.batch([3, 1]).image == batch.image).all() and len(asked) == 2
    assert part.part([1]).batch([0]).ids == ("f1",)
    assert part.pixel_hash(0) == films.pixel_hash(3)
