"""What the program is made of, as CycloneDX 1.6: the packages that are installed, and the weights.

usage: scripts/sbom.py FILE [PYTHON]

PYTHON is that of the environment that is meant, for example of the one in the hospital; default:
the one that runs this. The same environment gives the same bytes. FILE is written whole or not at
all.
"""

import argparse
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from nofinding.storage.atomic import write_atomic

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = ROOT / "src" / "nofinding" / "weights"
OWN = "nofinding"


def installed(python: str) -> dict[str, Any]:
    """The packages of an environment, as the CycloneDX tool for Python lists them."""
    command = [sys.executable, "-m", "cyclonedx_py", "environment", "--no-validate"]
    options = [
        "--short-PURLs",
        "--output-reproducible",
        "--pyproject",
        str(ROOT / "pyproject.toml"),
    ]
    process = subprocess.run([*command, *options, python], capture_output=True, check=True)
    return dict(json.loads(process.stdout))


def finished(bom: dict[str, Any]) -> dict[str, Any]:
    """With the weights inside the package; without this checkout as a package beside itself, whose
    entry names a folder of this machine."""
    own = {c["bom-ref"] for c in bom["components"] if c["name"] == OWN}
    packages = [c for c in bom["components"] if c["bom-ref"] not in own]
    links = [d for d in bom.get("dependencies", []) if d["ref"] not in own]
    for link in links:
        if "dependsOn" in link:
            link["dependsOn"] = [ref for ref in link["dependsOn"] if ref not in own]
    return {**bom, "components": [*packages, *weights()], "dependencies": links}


def weights() -> list[dict[str, Any]]:
    """Every file of weights, by name and SHA-256."""
    components = []
    for path in sorted(WEIGHTS.rglob("*.safetensors")):
        name = path.relative_to(WEIGHTS).with_suffix("").as_posix()
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        components.append({
            "type": "machine-learning-model", "bom-ref": f"weights/{name}",
            "name": f"{OWN} weights {name}", "hashes": [{"alg": "SHA-256", "content": digest}],
        })  # fmt: skip
    return components


def check(text: str) -> None:
    """Ends with a message where the text is not what the standard's schema says."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    fault = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if fault is not None:
        sys.exit(f"scripts/sbom: not valid CycloneDX 1.6: {fault!r:.500}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("python", nargs="?", default=sys.executable)
    given = parser.parse_args()
    bom = finished(installed(given.python))
    text = json.dumps(bom, indent=1) + "\n"
    check(text)
    write_atomic(given.file, text.encode())
    print(f"{given.file}: {len(bom['components'])} components")


if __name__ == "__main__":
    main()
