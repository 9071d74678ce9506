"""Films from files, and what happens to files that are no films or mean harm."""

import io
import multiprocessing
import os
import pickle
import signal
import struct
import subprocess
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from nofinding.data.decoding import decode
from nofinding.data.decoding.decode import FilmFile, check_files, read_header
from nofinding.errors import UserError
from nofinding.types import Exam

RAMP = np.arange(64 * 48, dtype=np.uint16).reshape(48, 64)


def saved(path: Path, pixels: np.ndarray, mode: str | None = None) -> FilmFile:
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path)
    return FilmFile(path)


def child_id() -> int:
    assert decode._child.process is not None
    return decode._child.process.pid


def test_an_8_bit_png_is_read_exactly(tmp_path: Path) -> None:
    grey = (RAMP % 256).astype(np.uint8)
    pixels = saved(tmp_path / "a.png", grey)()
    assert pixels.dtype == np.float32 and pixels.shape == (48, 64)
    np.testing.assert_allclose(pixels, grey / 255, atol=1e-7)


def test_a_16_bit_png_keeps_its_depth(tmp_path: Path) -> None:
    pixels = saved(tmp_path / "a.png", RAMP * 20)()
    np.testing.assert_allclose(pixels, RAMP * 20 / 65535, atol=1e-7)


def test_a_jpeg_is_read(tmp_path: Path) -> None:
    pixels = saved(tmp_path / "a.jpg", np.full((40, 30), 128, np.uint8))()
    assert pixels.shape == (40, 30) and abs(pixels.mean() - 128 / 255) < 0.01


def test_colour_becomes_luminosity_and_alpha_is_ignored(tmp_path: Path) -> None:
    colour = np.zeros((4, 4, 4), dtype=np.uint8)
    colour[..., :] = (255, 0, 0, 7)
    assert saved(tmp_path / "a.png", colour)().max() == pytest.approx(0.299, abs=0.003)
    grey = np.full((4, 4), 200, dtype=np.uint8)
    for mode in ("P", "LA", "RGB"):
        pixels = saved(tmp_path / f"{mode}.png", grey, mode)()
        np.testing.assert_allclose(pixels, 200 / 255, atol=0.005)
    assert saved(tmp_path / "one.png", grey > 0)().min() == 1


def test_a_jpeg_that_was_turned_is_turned_back(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the top of the picture is on the right of what is stored
    stored = np.zeros((16, 32), np.uint8)
    stored[:, 24:] = 255
    Image.fromarray(stored).save(tmp_path / "a.jpg", exif=exif)
    pixels = FilmFile(tmp_path / "a.jpg")()
    assert pixels.shape == (32, 16) and pixels[-4:].mean() > 0.9 > 0.1 > pixels[:20].mean()


def png_of(wide: int, high: int, data: bytes) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    head = struct.pack(">IIBBBBB", wide, high, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("text.png", b"PatientName=Somebody", "not a PNG, JPEG or DICOM"),
        ("empty.png", b"", "not a PNG, JPEG or DICOM"),
        ("gif.png", b"GIF89a" + bytes(200), "not a PNG, JPEG or DICOM"),
        ("wide.png", png_of(20_001, 1, zlib.compress(bytes(20_002))), "20001 x 1 pixels"),
        ("area.png", png_of(20_000, 5_001, b""), "100 million"),
        ("cut.png", png_of(64, 64, zlib.compress(bytes(65 * 64)))[:-30], "damaged or cut short"),
        ("short.png", png_of(640, 640, zlib.compress(bytes(10))), "damaged or cut short"),
        ("marker.jpg", b"\xff\xd8\xff\xe0rubbish", "damaged or cut short"),
        ("dicom.dcm", bytes(128) + b"DICM", "has modality not stated"),
    ],
)
def test_what_is_no_film_is_refused_in_one_line(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(UserError, match=said) as caught:
        FilmFile(file, "films.csv: row 7")()
    assert str(caught.value).startswith(f"films.csv: row 7: {file} ")
    assert "\n" not in str(caught.value) and "Somebody" not in str(caught.value)


def test_a_huge_header_is_refused_before_decoding(tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(png_of(19_000, 19_000, zlib.compress(bytes(10**6))))
    began = time.monotonic()
    with pytest.raises(UserError, match="19000 x 19000"):
        FilmFile(tmp_path / "bomb.png")()
    assert time.monotonic() - began < 5


def test_absent_files_folders_and_pipes_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, said in (
        (tmp_path / "none.png", "does not exist"),
        (tmp_path, "is not a file"),
        (tmp_path / "pipe", "is not a file"),
    ):
        for use in (FilmFile.__call__, FilmFile.check, FilmFile.fingerprint):
            with pytest.raises(UserError, match=said):
                use(FilmFile(path))
    with pytest.raises(UserError):
        FilmFile(Path("a\0b")).check()


def test_the_decoder_that_dies_is_replaced(tmp_path: Path) -> None:
    film = saved(tmp_path / "a.png", RAMP)
    film()
    first = child_id()
    os.kill(first, signal.SIGKILL)
    film()
    assert child_id() != first


def test_a_film_that_kills_the_decoder_twice_is_refused_and_the_next_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    film = saved(tmp_path / "a.png", RAMP)
    real = decode._Child._read
    killed: list[int] = []

    def murder(self: decode._Child, count: int, deadline: float) -> bytes:
        assert self.process is not None
        self.process.kill()
        killed.append(self.process.pid)
        raise EOFError

    monkeypatch.setattr(decode._Child, "_read", murder)
    with pytest.raises(UserError, match="made the decoder fail"):
        film()
    assert len(set(killed)) == 2
    monkeypatch.setattr(decode._Child, "_read", real)
    assert film().shape == (48, 64)


def test_a_decoder_that_takes_too_long_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    film = saved(tmp_path / "a.png", RAMP)
    film()
    stuck = child_id()
    monkeypatch.setattr(decode, "TIMEOUT", 0.3)
    os.kill(stuck, signal.SIGSTOP)
    with pytest.raises(UserError, match="not decoded within"):
        film()
    with pytest.raises(ProcessLookupError):
        os.kill(stuck, 0)
    monkeypatch.setattr(decode, "TIMEOUT", 30)
    assert film().shape == (48, 64)


def test_an_interrupted_answer_is_never_given_to_the_next_film(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    black = saved(tmp_path / "black.png", np.zeros((20, 20), np.uint8))
    white = saved(tmp_path / "white.png", np.full((20, 20), 255, np.uint8))
    real = decode._Child._read

    def interrupted(self: decode._Child, count: int, deadline: float) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr(decode._Child, "_read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        black()
    monkeypatch.setattr(decode._Child, "_read", real)
    assert white().min() == 1


def test_memory_is_limited_and_the_next_film_is_read(tmp_path: Path) -> None:
    film = saved(tmp_path / "a.png", RAMP)
    film()
    limits = Path(f"/proc/{child_id()}/limits")
    if not limits.exists():
        pytest.skip("no /proc on this system")
    lines = {line[:26].strip(): line[26:].split()[0] for line in limits.read_text().splitlines()}
    assert int(lines["Max address space"]) == 3 * 2**30
    assert lines["Max file size"] == "0" and lines["Max core file size"] == "0"


def test_the_decoder_does_not_import_torch() -> None:
    code = "import sys, nofinding.data.decoding.codec; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_one_decoder_serves_many_films_and_threads(tmp_path: Path) -> None:
    films = [saved(tmp_path / f"{i}.png", np.full((9, 9), i, np.uint8)) for i in range(40)]
    films[0]()
    only = child_id()
    with ThreadPoolExecutor(4) as pool:
        collected = [*pool.map(lambda film: round(float(film()[0, 0]) * 255), films)]
    assert collected == [*range(40)] and child_id() == only


def _in_fork(film: FilmFile, parents: int, answers: "multiprocessing.Queue[bool]") -> None:
    good = film().shape == (48, 64)
    answers.put(good and child_id() != parents)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_process_has_its_own_decoder(tmp_path: Path) -> None:
    film = saved(tmp_path / "a.png", RAMP)
    film()
    parents = child_id()
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    fork = context.Process(target=_in_fork, args=(film, parents, answers))
    fork.start()
    assert answers.get(timeout=30)
    fork.join(30)
    assert film().shape == (48, 64) and child_id() == parents


def test_the_decoder_dies_with_its_parent(tmp_path: Path) -> None:
    saved(tmp_path / "a.png", RAMP)
    code = (
        "import os, sys, time; from pathlib import Path;"
        "from nofinding.data.decoding import decode;"
        "decode.FilmFile(Path(sys.argv[1]))(); print(decode._child.process.pid, flush=True);"
        "time.sleep(60)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "a.png")], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    for _ in range(100):
        if not _alive(child):
            return
        time.sleep(0.05)
    pytest.fail("the decoder outlived its parent")


def _alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_film_is_picklable_and_known_by_its_content(tmp_path: Path) -> None:
    film = saved(tmp_path / "a.png", RAMP)
    again = pickle.loads(pickle.dumps(film))
    assert (again() == film()).all()
    (tmp_path / "copy.png").write_bytes((tmp_path / "a.png").read_bytes())
    assert FilmFile(tmp_path / "copy.png").fingerprint() == film.fingerprint()
    assert len(film.fingerprint()) == 64
    assert saved(tmp_path / "b.png", RAMP + 1).fingerprint() != film.fingerprint()


def test_files_are_checked_before_work_begins(tmp_path: Path) -> None:
    def exam(film: FilmFile) -> Exam:
        return Exam(image_id="a", patient_id="a", pixels=film, ehr={})

    good = exam(saved(tmp_path / "a.png", RAMP))
    check_files([good])
    with pytest.raises(UserError, match=r"row 3: .*b\.png does not exist"):
        check_files([good, exam(FilmFile(tmp_path / "b.png", "films.csv: row 3"))])


def test_a_png_has_no_header_of_the_patient(tmp_path: Path) -> None:
    assert read_header(saved(tmp_path / "a.png", RAMP).path) == {}


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.sampled_from(["PNG", "JPEG"]), st.data())
def test_damage_never_raises_anything_but_a_user_error(
    tmp_path: Path, kind: str, data: st.DataObject
) -> None:
    buffer = io.BytesIO()
    Image.fromarray((RAMP % 251).astype(np.uint8)).save(buffer, kind)
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    file = tmp_path / "film"
    file.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        pixels = FilmFile(file)()
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert pixels.ndim == 2 and pixels.min() >= 0 and pixels.max() <= 1
