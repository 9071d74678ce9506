"""What a command may import before it knows that it needs it, and how threads wait."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nofinding.openmp import CHOICES, WAIT, set_wait

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
    assert run(code).stdout.split() == list(WAIT.values())
    child = f"import nofinding, subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}])"
    assert run(child).stdout.split() == list(WAIT.values())


def test_it_is_set_before_torch_is_there() -> None:
    code = (
        "import os, sys\n"
        "class Watch:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'torch': print(os.environ.get('GOMP_SPINCOUNT')); sys.exit()\n"
        "sys.meta_path.insert(0, Watch())\n"
        "import nofinding.workflows.score\n"
    )
    assert run(code).stdout.strip() == WAIT["GOMP_SPINCOUNT"]


@pytest.mark.parametrize("name", CHOICES)
def test_the_user_s_own_choice_stands(name: str) -> None:
    environment = {name: "ACTIVE"}
    set_wait(environment)
    assert environment == {name: "ACTIVE"}


def test_threads_wait_briefly_in_these_tests() -> None:
    assert any(name in os.environ for name in CHOICES)
