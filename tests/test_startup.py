"""What a command may import before it knows that it needs it, and how threads wait."""

import importlib
import json
import os
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.nn import functional

from nofinding.datasets import SOURCES
from nofinding.datasets.examples import Copy
from nofinding.methods import METHODS
from nofinding.openmp import BUSY, CHOICES, QUIET, others_running, set_wait, wait_beside
from nofinding.runtime import FlopCounter

SOURCE = Path(__file__).parents[1] / "src"
LOADED = (
    "import json, sys; names = [n.partition('.')[0] for n in sys.modules];"
    "print(json.dumps(sorted(set(names) - set(sys.stdlib_module_names))), file=sys.stderr)"
)
QUICK = {
    "import": "import nofinding",
    "version": "from nofinding.cli import main; main(['--version'])",
    "help": "from nofinding.cli import main; main(['--help'])",
    "nothing": "from nofinding.cli import main; main([])",
}
HEAVY = {
    *("scipy", "pandas", "pyarrow", "duckdb", "matplotlib", "sklearn", "jinja2", "pydicom"),
    *("sympy", "mpmath", "monai", "highdicom", "requests", "urllib3", "ray", "fastapi", "openvino"),
    *("torchvision", "timm", "transformers", "einops", "pynetdicom", "onnx"),
}
"""What `score FILE` must not wait for: reports, tables, other methods, DICOM in this process (the
decoder's has it), the network, the service."""
COMPILER = {"torch._dynamo", "torch._inductor", "torch.fx.experimental.symbolic_shapes"}
SECONDS = 0.3  # of processor time, several times what it takes: other programs slow it down


def run(code: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Runs Python code as a user's shell would, with nothing said of OpenMP unless it is here."""
    plain = {k: v for k, v in os.environ.items() if k not in CHOICES}
    env = {**plain, "PYTHONPATH": str(SOURCE), **environment}
    return subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )


def outside(code: str) -> set[str]:
    """The packages of others that the code has imported."""
    return set(json.loads(run(f"{code}; {LOADED}").stderr.splitlines()[-1]))


def iter_modules_below(name: str) -> Iterator[ModuleType]:
    """Every module of a package."""
    package = importlib.import_module(name)
    for info in pkgutil.walk_packages(package.__path__, f"{name}."):
        yield importlib.import_module(info.name)


@pytest.mark.parametrize("code", QUICK.values(), ids=QUICK)
def test_help_waits_for_no_other_package(code: str) -> None:
    loaded = outside(code) - {"nofinding"}
    # What site-packages start by themselves, a .pth file of an editor say, is there without us.
    assert loaded <= outside("pass"), loaded


@pytest.mark.parametrize("code", QUICK.values(), ids=QUICK)
def test_help_takes_little_processor_time(code: str) -> None:
    spent = (
        "import resource, sys; u = resource.getrusage(resource.RUSAGE_SELF);"
        "print(u.ru_utime + u.ru_stime, file=sys.stderr)"
    )
    least = min(float(run(f"{code}; {spent}").stderr.splitlines()[-1]) for _ in range(3))
    assert least < SECONDS


def test_the_help_of_a_listing_waits_for_no_torch() -> None:
    code = (
        "from nofinding.cli import main\n"
        "try: main(['recipes', '--help'])\n"
        "except SystemExit: pass\n"
    )
    assert "torch" not in outside(code + "pass")


@pytest.mark.parametrize(
    "module",
    ["nofinding.workflows.score", "nofinding.workflows.fit", "nofinding.service.workers.worker"],
)
def test_scoring_imports_no_report_and_no_statistics(module: str) -> None:
    loaded = outside(f"import {module}")
    assert not loaded & {"sklearn", "pandas", "jinja2", "highdicom", "monai"}


@pytest.mark.parametrize("suffix", ["png", "dcm"])
def test_a_film_is_scored_without_what_only_others_need(suffix: str, tmp_path: Path) -> None:
    film = tmp_path / f"film.{suffix}"
    copy = Copy(root=tmp_path / "films", patients=8, seed=0, size=224)
    write = copy.picture if suffix == "png" else copy.dicom
    write(f"a.{suffix}", copy.film(0)).rename(film)
    arguments = ["score", str(film), "--ehr", "age=50", "--gate", "flag", "--threads", "1"]
    arguments += ["--out", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]
    code = (
        "import collections, json, sys\n"
        "reads = collections.Counter()\n"
        "def hook(event, given):\n"
        "    if event == 'open' and str(given[0]).endswith(('.pth', '.safetensors')):\n"
        "        reads[given[0]] += 1\n"
        "sys.addaudithook(hook)\n"
        "from nofinding.cli import main\n"
        f"assert main({arguments!r}) == 0\n"
        "print(json.dumps([reads, [n for n in sys.modules if n.startswith(('torch.', 'nofin'))]]),"
        "file=sys.stderr)\n"
    )
    lines = run(code + LOADED).stderr.splitlines()
    packages, (reads, modules) = json.loads(lines[-1]), json.loads(lines[-2])
    assert "torch" in packages  # it has scored
    assert not set(packages) & HEAVY
    assert not set(modules) & COMPILER
    assert len([n for n in modules if n.startswith("nofinding.methods.")]) < 25  # one, not fifty
    assert reads and max(reads.values()) == 1, reads  # each network's file once


def test_the_methods_and_sources_are_those_that_modules_define() -> None:
    defined = {}
    for module in iter_modules_below("nofinding.methods"):
        for value in vars(module).values():
            own = isinstance(value, type) and value.__module__ == module.__name__
            if own and isinstance(value.__dict__.get("name"), str) and hasattr(value, "PRESETS"):
                defined[value.__dict__["name"]] = value
    assert dict(METHODS) == defined
    sources = {}
    for module in iter_modules_below("nofinding.datasets"):
        for value in vars(module).values():
            if not isinstance(value, type) and all(hasattr(value, n) for n in ("read", "offers")):
                sources[value.name] = value
    assert {n: s for n, s in SOURCES.items() if n != "synthetic"} == sources


def test_names_are_listed_without_an_import() -> None:
    code = (
        "import sys; from nofinding.methods import METHODS\n"
        "assert 'ddpm' in METHODS and len([*METHODS]) == len(METHODS) > 40\n"
        "assert 'nofinding.methods.pixel_diffusion.ddpm' not in sys.modules\n"
        "assert METHODS['ddpm'].name == 'ddpm'\n"
        "assert 'nofinding.methods.pixel_diffusion.ddpm' in sys.modules\n"
        "assert METHODS.get('nothing') is None\n"
    )
    run(code)


def test_what_is_counted_is_computed_as_what_is_not() -> None:
    film = torch.rand(1, 3, 7, 7, generator=torch.Generator().manual_seed(0))
    larger = functional.interpolate(film, size=(19, 19), mode="bilinear", align_corners=False)
    with FlopCounter() as counter:
        counted = functional.interpolate(film, size=(19, 19), mode="bilinear", align_corners=False)
    assert torch.equal(larger, counted) and counter.get_total_flops() == 0


def test_scoring_imports_no_compiler_of_torch() -> None:
    code = (
        "import sys, torch; from nofinding.runtime import FlopCounter\n"
        "with FlopCounter() as counter: torch.ones(2, 3) @ torch.ones(3, 4)\n"
        "assert counter.get_total_flops() == 48, counter.get_total_flops()\n"
        "assert 'torch._dynamo' not in sys.modules\n"
    )
    run(code)


def test_threads_wait_briefly_in_every_process() -> None:
    code = "import nofinding, os; print(os.environ['GOMP_SPINCOUNT'], os.environ['KMP_BLOCKTIME'])"
    allowed = [list(wait.values()) for wait in (QUIET, BUSY)]
    assert run(code).stdout.split() in allowed
    both = f"import subprocess, sys; {code}; sys.stdout.flush();"
    both += f"subprocess.run([sys.executable, '-c', {code!r}])"
    parent, child = run(both).stdout.splitlines()
    assert parent.split() in allowed and child == parent


@pytest.mark.parametrize("start", ["spawn", "forkserver"])  # of loaders and of the service's pool
@pytest.mark.parametrize(("own", "given"), [({}, True), ({"OMP_WAIT_POLICY": "ACTIVE"}, False)])
def test_workers_inherit_it(start: str, own: dict[str, str], given: bool) -> None:
    code = (
        "import multiprocessing, os, nofinding\n"
        "names = ['GOMP_SPINCOUNT', 'OMP_WAIT_POLICY']\n"
        "print([os.getenv(name) for name in names])\n"
        f"with multiprocessing.get_context({start!r}).Pool(1) as pool:\n"
        "    print(pool.map(os.getenv, names))\n"
    )
    parent, worker = run(code, **own).stdout.splitlines()
    spin = {repr(wait["GOMP_SPINCOUNT"]) for wait in (QUIET, BUSY)} if given else {"None"}
    assert worker == parent and parent in {f"[{n}, {own.get('OMP_WAIT_POLICY')!r}]" for n in spin}


def test_it_is_set_before_torch_is_there() -> None:
    code = (
        "import os, sys\n"
        "class Watch:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'torch': print(os.environ.get('GOMP_SPINCOUNT')); sys.exit()\n"
        "sys.meta_path.insert(0, Watch())\n"
        "import nofinding.workflows.score\n"
    )
    assert run(code).stdout.strip() in {wait["GOMP_SPINCOUNT"] for wait in (QUIET, BUSY)}


def test_threads_spin_only_where_there_are_cores_for_all() -> None:
    assert wait_beside(others=0, threads=2, cores=2) == QUIET
    assert wait_beside(others=1, threads=2, cores=2) == BUSY
    assert wait_beside(others=30, threads=2, cores=64) == QUIET
    assert wait_beside(others=30, threads=64, cores=64) == BUSY


def test_a_neighbour_is_who_runs_all_the_while(tmp_path: Path) -> None:
    status = tmp_path / "stat"
    status.write_text("cpu 1 2 3\nprocs_running 4\nprocs_blocked 0\n")
    assert others_running(status) == 3
    status.write_text("procs_running 1\n")
    assert others_running(status) == 0
    status.write_text("cpu 1 2 3\n")
    assert others_running(status) == 0
    assert others_running(tmp_path / "none") == 0


def test_it_is_seen_that_other_programs_run() -> None:
    loops = [
        subprocess.Popen([sys.executable, "-c", "print(flush=True)\nwhile True: pass"],
                         stdout=subprocess.PIPE)
        for _ in range(os.cpu_count() or 1)
    ]  # fmt: skip
    try:
        for loop in loops:
            assert loop.stdout is not None
            loop.stdout.readline()
        assert (
            run("import os, nofinding; print(os.environ['GOMP_SPINCOUNT'])").stdout.strip() == "0"
        )
    finally:
        for loop in loops:
            loop.kill()
            loop.communicate()


@pytest.mark.parametrize("name", CHOICES)
def test_the_user_s_own_choice_stands(name: str) -> None:
    environment = {name: "ACTIVE"}
    set_wait(environment)
    assert environment == {name: "ACTIVE"}


def test_threads_wait_briefly_in_these_tests() -> None:
    assert any(name in os.environ for name in CHOICES)
