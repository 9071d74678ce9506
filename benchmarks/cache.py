"""How fast films are decoded into the cache, and read back from it.

Phantom films of 1024 x 1024 pixels, 12 bits, are written as lossless JPEG 2000 DICOM files: some
distinct ones, and of each as many copies as it takes, every one with a UID of its own, so that no
two files are equal and each is decoded by itself.

usage: python benchmarks/cache.py FOLDER [--count 1000] [--size 224 112] [--out FILE.md]
"""

import argparse
import csv
import os
import random
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, JPEG2000Lossless, generate_uid
from watching import Cost, machine, run

from nofinding.data.cache.film_cache import FilmCache
from nofinding.data.decoding.decode import FilmFile
from nofinding.data.image import fit_square
from nofinding.datasets.phantom.film import PhantomFilm

DISTINCT = 40
SIDE = 1024
SAMPLE = 100  # films decoded by one process, and read back by it
ROUNDS = 5
DX = "1.2.840.10008.5.1.4.1.1.1.1"  # Digital X-Ray Image Storage - For Presentation


def dicom(seed: int) -> FileDataset:
    """A phantom film as a DX file, compressed."""
    pixels = (PhantomFilm(seed=seed, index=seed, size=SIDE)() * 4095).astype(np.uint16)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = DX
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    film = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    film.SOPClassUID, film.Modality, film.ImageType = DX, "DX", ["ORIGINAL", "PRIMARY"]
    film.Rows, film.Columns, film.SamplesPerPixel = SIDE, SIDE, 1
    film.PhotometricInterpretation, film.PixelRepresentation = "MONOCHROME2", 0
    film.BitsAllocated, film.BitsStored, film.HighBit = 16, 12, 11
    film.WindowCenter, film.WindowWidth = "2048", "4096"
    film.SOPInstanceUID = meta.MediaStorageSOPInstanceUID = generate_uid()
    film.PixelData = pixels.tobytes()
    film["PixelData"].VR = "OW"
    film.compress(JPEG2000Lossless, generate_instance_uid=False)
    return film


def write_films(folder: Path, count: int) -> Path:
    """The films and their table; those that are there already are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor() as pool:
        films = list(pool.map(dicom, range(min(DISTINCT, count))))
    with (folder / "films.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image_id", "path"])
        for number in range(count):
            path = folder / f"{number:06d}.dcm"
            writer.writerow([path.stem, path.name])
            if path.exists():
                continue
            film = films[number % len(films)]
            film.SOPInstanceUID = film.file_meta.MediaStorageSOPInstanceUID = generate_uid()
            film.save_as(path, enforce_file_format=True)
    return folder / "films.csv"


def rate(films: list[FilmFile], cache: FilmCache | None, size: int) -> float:
    """Films a second of one process: read from the cache, or decoded and prepared."""
    start = time.perf_counter()
    for film in films:
        if cache is None:
            fit_square(film(), size)
        else:
            cache.get(film, size)
    return len(films) / (time.perf_counter() - start)


def entries(folder: Path) -> int:
    """Films in the cache, those that were written twice counted twice."""
    return sum(path.stat().st_size // 40 for path in folder.rglob("*.keys"))


def said_rate(cost: Cost) -> str:
    """Films a second once the program had started."""
    return cost.said.rpartition(" films/s")[0].rpartition(" ")[2]


def rows(options: argparse.Namespace) -> Iterator[str]:
    """The lines of the table, as they are measured."""
    table = write_films(options.folder / "films", options.count)
    time.sleep(2.1)  # a file that was written just now is read again
    command = ["cache", "--films", f"table:{table}", "--size", *options.size]
    whole, killed = options.folder / "whole", options.folder / "killed"

    def cached(folder: Path, kill_after: float | None = None) -> Cost:
        return run([*command, "--cache", folder], {"OMP_NUM_THREADS": "1"}, kill_after)

    cost = cached(whole)
    assert cost.status == 0, cost.said
    yield f"| `nofinding cache`, all cores, as it says | {said_rate(cost)} films/s |"
    yield f"| seconds, from start to end | {cost.seconds:.0f} |"
    yield f"| peak memory, all processes | {cost.mib:.0f} MiB |"
    again = cached(whole)
    yield f"| the same again, nothing left to decode | {again.seconds:.1f} s |"
    first = cached(killed, 0.5 * cost.seconds)
    assert first.status == -9
    time.sleep(2)  # its orphans end with the films that they are at
    before = entries(killed)
    second = cached(killed)
    assert second.status == 0, second.said
    twice = entries(killed) - len(options.size) * options.count
    yield f"| killed (SIGKILL) half-way: films in the cache | {before // len(options.size)} |"
    yield f"| the same command then | {second.seconds:.0f} s, {twice} films prepared twice |"
    films = [FilmFile(table.parent / f"{n:06d}.dcm") for n in range(options.count)]
    sample = random.Random(0).sample(films, min(SAMPLE, len(films)))
    size = options.size[0]
    decode, read = [], []
    for _ in range(ROUNDS):
        decode.append(rate(sample[: len(sample) // ROUNDS or 1], None, size))
        read.append(rate(films, FilmCache(whole), size))
    yield f"| one process: decoded and prepared | {median(decode):.1f} films/s |"
    yield f"| one process: read back, each verified | {median(read):.0f} films/s |"
    yield f"| read back over decoded | {median(read) / median(decode):.0f} times |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--size", type=int, nargs="+", default=[224, 112])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    sizes = " and ".join(map(str, options.size))
    load = os.getloadavg()[0]
    lines = [
        "# The film cache",
        "",
        f"`python benchmarks/cache.py FOLDER --count {options.count}`: {options.count:,} films of",
        f"{SIDE} x {SIDE} pixels (lossless JPEG 2000 DICOM, about 1 MB each), prepared at {sizes}",
        f"pixels. {machine()}; load average at the start {load:.1f}, of other work.",
        f"Medians of {ROUNDS} rounds; files and cache on a local disk, in the page cache.",
        "",
        "| what | measured |",
        "|---|---|",
    ]
    for line in rows(options):
        lines.append(line)
        print(line, flush=True)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
