"""A real archive for tests: Debian's Orthanc with its DICOMweb plug-in, on loopback, in a folder of
its own, gone afterwards.

    with Orthanc(tmp_path) as archive:
        archive.dicomweb   # http://127.0.0.1:PORT/dicom-web
        archive.rest       # http://127.0.0.1:PORT
        archive.dicom      # ORTHANC@127.0.0.1:PORT
        archive.know("nofinding", "NOFINDING", port)  # where it may send to
"""

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from base64 import b64encode
from pathlib import Path
from typing import Any, Self

import pytest

__all__ = ["Orthanc", "free_port"]

PLUGINS = Path("/usr/share/orthanc/plugins")  # where Debian puts them
TITLE = "ORTHANC"
START = 30.0  # seconds that a start may take


def free_port() -> int:
    """A port of the loopback that nobody listened at a moment ago."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


class Orthanc:
    """A running Orthanc; skips the test where it, or its DICOMweb plug-in, is not installed."""

    def __init__(
        self, folder: Path, *, login: tuple[str, str] | None = None, **config: Any
    ) -> None:
        """`login` is a user and a password that it asks for; `config` are further settings of
        Orthanc's own, by their names."""
        self.folder, self.login, self.extra = folder / "orthanc", login, config
        self.http, self.dimse = 0, 0
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def rest(self) -> str:
        """The address of its own interface."""
        return f"http://127.0.0.1:{self.http}"

    @property
    def dicomweb(self) -> str:
        """The address of its DICOMweb services."""
        return f"{self.rest}/dicom-web"

    @property
    def dicom(self) -> str:
        """TITLE@host:port of its C-STORE SCP."""
        return f"{TITLE}@127.0.0.1:{self.dimse}"

    def __enter__(self) -> Self:
        program, plugin = shutil.which("Orthanc"), PLUGINS / "libOrthancDicomWeb.so"
        if program is None:
            pytest.skip("Orthanc is not installed (Debian: orthanc)")
        if not plugin.exists():
            pytest.skip("Orthanc's DICOMweb plug-in is not installed (Debian: orthanc-dicomweb)")
        self.folder.mkdir(parents=True)
        for _ in range(3):  # another process may have taken a port meanwhile
            self.http, self.dimse = free_port(), free_port()
            config = self.folder / "orthanc.json"
            config.write_text(json.dumps(self._config(plugin)), encoding="utf-8")
            with (self.folder / "orthanc.log").open("wb") as log:
                self.process = subprocess.Popen([program, config], stdout=log, stderr=log)
            if self._answers():
                return self
            self._stop()
        log_text = (self.folder / "orthanc.log").read_text(errors="replace")
        raise RuntimeError(f"Orthanc did not start:\n{log_text[-2000:]}")

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _config(self, plugin: Path) -> dict[str, Any]:
        return {
            "Name": "test",
            "StorageDirectory": str(self.folder / "storage"),
            "IndexDirectory": str(self.folder / "index"),
            "HttpPort": self.http,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": self.login is not None,
            "RegisteredUsers": dict([self.login] if self.login else []),
            "DicomAet": TITLE,
            "DicomPort": self.dimse,
            "DicomCheckCalledAet": True,
            "DicomAlwaysAllowEcho": True,
            "DicomAlwaysAllowStore": True,
            "Plugins": [str(plugin)],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
            **self.extra,
        }

    def _answers(self) -> bool:
        assert self.process is not None
        end = time.monotonic() + START
        while time.monotonic() < end and self.process.poll() is None:
            try:
                self.ask("/system")
            except (OSError, ValueError):
                time.sleep(0.05)
            else:
                return True
        return False

    def _stop(self) -> None:
        if self.process is None:
            return
        self.process.kill()  # nothing of it is kept, and a tidy end takes it three seconds
        self.process.wait()
        self.process = None

    def ask(self, path: str, data: bytes | None = None, method: str | None = None) -> Any:
        """What its own interface answers: JSON, or bytes where it is no JSON."""
        request = urllib.request.Request(f"{self.rest}{path}", data=data, method=method)
        if self.login is not None:
            secret = b64encode(":".join(self.login).encode()).decode()
            request.add_header("Authorization", f"Basic {secret}")
        with urllib.request.urlopen(request, timeout=20) as answer:
            message = answer.read()
            return json.loads(message) if "json" in answer.headers["Content-Type"] else message

    def put(self, file: Path) -> str:
        """Stores a DICOM file by its own interface; gives its own id of it."""
        return str(self.ask("/instances", file.read_bytes())["ID"])

    def instances(self) -> list[str]:
        """Its own ids of all that it holds."""
        return sorted(self.ask("/instances"))

    def file(self, instance: str) -> bytes:
        """The DICOM file of one of these ids."""
        return bytes(self.ask(f"/instances/{instance}/file"))

    def know(self, name: str, title: str, port: int) -> None:
        """Lets it send by C-STORE to an application entity on this machine."""
        metadata = {"AET": title, "Host": "127.0.0.1", "Port": port}
        self.ask(f"/modalities/{name}", json.dumps(metadata).encode(), "PUT")

    def send(self, name: str, *instances: str) -> None:
        """Has it send instances, by its own ids, to one that it knows; all of them if none."""
        message = list(instances) or self.instances()
        self.ask(f"/modalities/{name}/store", json.dumps(message).encode())
