"""Fuzzes what the decoder's child does with a DICOM file: pixels, header, identity, study.

Whatever the decoders raise is damage, and is caught in the child as here. A finding is what would
get past that: the process dies or hangs, takes more memory than the child may, or answers what its
parent cannot read.

usage: python benchmarks/fuzz/dicom.py CORPUS -max_total_time=600 (and other options of libFuzzer)
"""

import json
import os
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["nofinding", "pydicom"]):
    from nofinding.data.decoding import codec
    from nofinding.data.decoding.limits import check_decoded

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

ASKED = ("header", "identity", "study", "pixels")
FOLDER = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path(tempfile.gettempdir())
FILE = FOLDER / f"nofinding-fuzz-{os.getpid()}.dcm"
LONGEST = 2**16  # bytes of an answer, without pixels, that the parent takes
KINDS = ("float32", "uint8", "uint16")


def seeds(folder: Path) -> None:
    """A small film in every form that there is, to begin with."""
    from support.dicom_film import film
    from support.recoded import forms

    folder.mkdir(parents=True, exist_ok=True)
    tags = {
        "WindowCenter": 2048,
        "WindowWidth": 4096,
        "PatientID": "1",
        "BodyPartExamined": "CHEST",
    }
    for number, (_, content) in enumerate(forms(film(**tags))):
        (folder / f"form-{number}").write_bytes(content)


def one(data: bytes) -> None:
    """Asks all that is asked of a file."""
    FILE.write_bytes(bytes(128) + b"DICM" + data[132:])
    for what in ASKED:
        reply, pixels = codec._safely({"path": str(FILE), "what": what})
        assert len(json.dumps(reply)) <= LONGEST
        assert "error" in reply or what in ("pixels", *reply) or "header" in reply
        if "dtype" in reply:
            assert reply["dtype"] in KINDS
            check_decoded(tuple(reply["shape"]))
            assert pixels


def main() -> None:
    """Runs until libFuzzer is done."""
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        raise SystemExit(__doc__)
    if not Path(sys.argv[1]).is_file():  # a finding, to be run again
        seeds(Path(sys.argv[1]))
    options = [a for a in sys.argv if not a.startswith("-rss_limit_mb")]
    atheris.Setup([*options, "-rss_limit_mb=3072", "-timeout=35", "-max_len=65536"], one)
    try:
        atheris.Fuzz()
    finally:
        FILE.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
