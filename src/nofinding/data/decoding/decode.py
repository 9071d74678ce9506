"""Films from files: PNG, JPEG, single-frame CR or DX DICOM, and NIfTI volumes, decoded where they
can do no harm.

One child process for each process that asks, kept between films, killed when it takes too
long or too much, and started afresh for the next one.
"""

import atexit
import contextlib
import hashlib
import json
import math
import os
import queue
import select
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np

import nofinding
from nofinding.data.decoding.limits import (
    TIMEOUT,
    FilmError,
    check_decoded,
    check_decoded_size,
    kind_of,
    require_nifti,
)
from nofinding.errors import UserError
from nofinding.types import Decoded, Exam, Pixels

__all__ = [
    "FilmFile",
    "PublishedFile",
    "UnreadableError",
    "VolumeFile",
    "check_files",
    "child_of",
    "read_about",
    "read_header",
    "read_headers",
    "read_identity",
    "read_studies",
]

SETTLED = 2.0  # seconds since a file's last change from which its times tell it apart
TOPS = {"uint8": 255.0, "uint16": 65535.0, "float32": 1.0}  # the value of white


class UnreadableError(UserError):
    """A film whose file is absent, damaged or no film."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason
        """Why, without the file's name: "is damaged or cut short"."""

    def __reduce__(self) -> tuple[type["UnreadableError"], tuple[str, str]]:
        return type(self), (str(self), self.reason)


class _Child:
    """The decoder process of this process. Safe to use from several threads, and after a fork."""

    def __init__(self, module: str = "nofinding.data.decoding.codec") -> None:
        self.module = module
        self.lock = threading.Lock()
        self.process: subprocess.Popen[bytes] | None = None

    def ask(self, path: Path, what: str, **more: str | bool) -> tuple[dict[str, Any], bytes]:
        """The child's answer. Raises FilmError with the reason where it has none.

        A child that dies is asked once more, afresh: it may have been killed from outside.
        """
        request = json.dumps({**more, "path": str(path.absolute()), "what": what}).encode()
        message = struct.pack("<I", len(request)) + request
        with self.lock:
            try:
                try:
                    reply, pixels = self._exchange(message)
                except (EOFError, BrokenPipeError):
                    self.close()
                    reply, pixels = self._exchange(message)
            except TimeoutError:
                self.close()
                raise FilmError(f"was not decoded within {TIMEOUT} seconds") from None
            except (EOFError, BrokenPipeError):
                self.close()
                raise FilmError("made the decoder fail") from None
            except BaseException:  # interrupted half-way: the next answer would be this film's
                self.close()
                raise
            if reply.get("last"):
                self.close()
        if "error" in reply:
            raise FilmError(reply["error"])
        return reply, pixels

    def _exchange(self, message: bytes) -> tuple[dict[str, Any], bytes]:
        deadline = time.monotonic() + TIMEOUT
        if self.process is None:
            self.process = self._start()
        assert self.process.stdin is not None
        self.process.stdin.write(message)
        (length,) = struct.unpack("<I", self._read(4, deadline))
        reply: dict[str, Any] = json.loads(self._read(min(length, 2**16), deadline))
        if "bytes" in reply:
            return reply, self._read(check_decoded_size(reply["bytes"]), deadline)
        if "dtype" not in reply:
            return reply, b""
        shape = tuple(reply["shape"])
        check_decoded(shape)
        count = math.prod(shape) * np.dtype(reply["dtype"]).itemsize
        return reply, self._read(count, deadline)

    def _read(self, count: int, deadline: float) -> bytes:
        assert self.process is not None and self.process.stdout is not None
        descriptor = self.process.stdout.fileno()
        ready = select.poll()
        ready.register(descriptor, select.POLLIN)
        data = bytearray()
        while len(data) < count:
            left = deadline - time.monotonic()
            if left <= 0 or not ready.poll(left * 1000):
                raise TimeoutError
            piece = os.read(descriptor, min(count - len(data), 2**20))
            if not piece:
                raise EOFError
            data += piece
        return bytes(data)

    def _start(self) -> "subprocess.Popen[bytes]":
        package = str(Path(nofinding.__file__).parents[1])
        search = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
        one_thread = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        return subprocess.Popen(
            [sys.executable, "-P", "-m", self.module],
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": search, **one_thread},
        )

    def close(self) -> None:
        """Kills the process, if there is one; the next film starts another."""
        process, self.process = self.process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def forget(self) -> None:
        """After a fork: the process belongs to the parent, so only our ends of it are closed."""
        process, self.process, self.lock = self.process, None, threading.Lock()
        if process is None:
            return
        process.returncode = 0  # not ours to wait for
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def child_of(module: str) -> _Child:
    """A process of its own that runs `module`, which serves as `data/decoding/codec.py` does.
    Whoever asks for it closes it."""
    return _Child(module)


_child = _Child()
os.register_at_fork(after_in_child=_child.forget)
atexit.register(_child.close)


@dataclass(frozen=True, slots=True)
class FilmFile:
    """A film that is still in its file. Calling it decodes; the file itself is its identity."""

    path: Path
    where: str = ""
    """What names this film to the user beside its path: "films.csv: row 12"."""

    def __call__(self) -> Pixels:
        """(h, w) float32 in [0, 1], dense tissue bright. Raises UserError, one line, file named."""
        return self.decode().pixels

    def decode(self) -> Decoded:
        """The film, and what its file says of it. Raises UserError as calling it does."""
        return self._decoded("pixels")

    def _decoded(self, what: str, greys: str = "") -> Decoded:
        try:
            reply, data = _child.ask(self.path, what, greys=greys)
        except FilmError as error:
            raise self._error(str(error)) from None
        stored = np.frombuffer(data, dtype=reply["dtype"]).reshape(reply["shape"])
        white = reply.get("white") or TOPS[reply["dtype"]]
        pixels = (stored / np.float32(white)).astype(np.float32, copy=False)
        return Decoded(pixels, tuple(reply.get("flags", ())), reply.get("objection"))

    def fingerprint(self) -> str:
        """SHA-256 of the file's bytes, in hex."""
        with self._open() as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def stamp(self) -> str | None:
        """What tells, without reading it, that the file is the one that was read before.

        Path, device, inode, size and both times of change. None where the file was changed less
        than two seconds ago: another change within the clock's resolution would not show.
        """
        try:
            status = self.path.stat()
        except (OSError, ValueError):
            return None
        if time.time() - max(status.st_mtime, status.st_ctime) < SETTLED:
            return None
        fields = (
            status.st_dev,
            status.st_ino,
            status.st_size,
            status.st_mtime_ns,
            status.st_ctime_ns,
        )
        return "|".join(map(str, (self.path.absolute(), *fields)))

    def check(self) -> None:
        """Raises UserError where the file is absent or begins like no film; decodes nothing."""
        with self._open() as file:
            try:
                self._look(file.read(132))
            except FilmError as error:
                raise self._error(str(error)) from None

    @staticmethod
    def _look(start: bytes) -> None:
        kind_of(start)

    def _open(self) -> BufferedReader:
        try:
            if self.path.exists() and not self.path.is_file():  # a pipe might never end
                raise self._error("is not a file")
            return self.path.open("rb")
        except FileNotFoundError:
            raise self._error("does not exist") from None
        except (OSError, ValueError):  # ValueError: a path with a zero byte in it
            raise self._error("cannot be read") from None

    def _error(self, reason: str) -> UnreadableError:
        message = ": ".join(filter(None, (self.where, f"{self.path} {reason}")))
        return UnreadableError(message, reason)


@dataclass(frozen=True, slots=True)
class PublishedFile(FilmFile):
    """A PNG film of which its publisher's table says how the greys are to be read."""

    greys: str = ""
    """As `raster.read` takes it: "MONOCHROME1 12"."""

    def decode(self) -> Decoded:
        """As of any film, with the greys read so."""
        return self._decoded("pixels", self.greys)

    def fingerprint(self) -> str:
        """Of the file's bytes and of how the greys are read: other greys are another film."""
        whole = FilmFile.fingerprint(self)
        return hashlib.sha256(f"{whole}|{self.greys}".encode()).hexdigest()

    def stamp(self) -> str | None:
        """As of any file, and how the greys are read."""
        stamp = FilmFile.stamp(self)
        return None if stamp is None else f"{stamp}|{self.greys}"


@dataclass(frozen=True, slots=True)
class VolumeFile(FilmFile):
    """A NIfTI volume that is still in its file, or the mask of one."""

    mask: bool = False
    """Whether 1 stands for every voxel that is not 0, on the grid of the volume."""

    def __call__(self) -> Pixels:
        """(d, h, w) float32 in [0, 1], upright, voxels cubes, at most 256 a side (`nifti.py`).

        Raises UserError, one line, file named.
        """
        return self.decode().pixels

    def decode(self) -> Decoded:
        """The volume. Raises UserError as calling it does."""
        return self._decoded("mask" if self.mask else "volume")

    @staticmethod
    def _look(start: bytes) -> None:
        require_nifti(start)


def read_about(path: Path) -> tuple[dict[str, str], dict[str, Any]]:
    """What `read_header` and `read_identity` give, of a file that is read once. Raises UserError,
    one line, where the file cannot be read."""
    try:
        message = _child.ask(path, "about")[0]
    except FilmError as error:
        raise UserError(f"{path} {error}") from None
    return message["header"], message["identity"]


def read_header(path: Path) -> dict[str, str]:
    """What a DICOM file says of age, sex, view, height and weight, as written; {} for PNG, JPEG.

    Where it says when the patient was born, that and the day of the study stand there, too.
    """
    return read_about(path)[0]


def read_identity(path: Path) -> dict[str, Any]:
    """Whose film a DICOM file is and how it lies, as DICOM JSON (`dicom.identity`); {} for PNG and
    JPEG. Raises UserError, one line, where the file cannot be read."""
    return read_about(path)[1]


def read_headers(paths: Sequence[Path], workers: int) -> Iterator[dict[str, str] | None]:
    """`read_header` of many files, in their order, from as many decoder processes as `workers`;
    None where a file cannot be read."""
    for answer in _ask_of_each(paths, "header", workers):
        yield None if isinstance(answer, str) else answer


def read_studies(paths: Sequence[Path], workers: int) -> Iterator[dict[str, str]]:
    """What each DICOM header says that a cohort is chosen by (`dicom.study`), in order, from as
    many decoder processes as `workers`.

    A file that is none, or is damaged, gives {"unfit": why}: never an error.
    """
    for answer in _ask_of_each(paths, "study", workers):
        yield {"unfit": answer} if isinstance(answer, str) else answer


def _ask_of_each(paths: Sequence[Path], what: str, workers: int) -> Iterator[dict[str, str] | str]:
    """The header of each file, or why there is none. The processes end with the last file."""
    children = [_Child() for _ in range(max(1, workers))]
    idle: queue.SimpleQueue[_Child] = queue.SimpleQueue()
    for child in children:
        idle.put(child)

    def ask(path: Path) -> dict[str, str] | str:
        child = idle.get()
        try:
            header: dict[str, str] = child.ask(path, what)[0]["header"]
        except FilmError as error:
            return str(error)
        except (OSError, ValueError):
            return "cannot be read"
        else:
            return header
        finally:
            idle.put(child)

    try:
        with ThreadPoolExecutor(len(children)) as pool:
            for start in range(0, len(paths), 1000):  # so that few wait in memory
                yield from pool.map(ask, paths[start : start + 1000])
    finally:
        for child in children:
            child.close()


def check_files(exams: Iterable[Exam]) -> None:
    """Raises UserError for the first film whose file is absent or no film, before work begins."""
    for exam in exams:
        if isinstance(exam.pixels, FilmFile):
            exam.pixels.check()
