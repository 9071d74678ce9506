"""Every route against its own description: whatever is asked, nothing breaks (schemathesis)."""

import os
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from nofinding.service.store.home import Home
from support.service_app import Pool, app_for, done_job, home_in

EXAMPLES = int(os.environ.get("NOFINDING_API_EXAMPLES", "4"))
"""Of each operation; more for a long run."""
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return home_in(tmp_path_factory.mktemp("api"), capacity=10**6)


@pytest.fixture(scope="module")
def operations(home: Home) -> Iterator[list[Any]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        schema = schemathesis.openapi.from_asgi(
            "/openapi.json", app_for(home, pool=Pool()), headers={"Host": "127.0.0.1"}
        )
        yield [result.ok() for result in schema.get_all_operations()]


def test_whatever_is_asked_nothing_breaks(home: Home, operations: list[Any]) -> None:
    job = done_job(home).id
    answers: Counter[int] = Counter()
    assert len(operations) >= 20
    for operation in operations:
        cases = st.one_of(
            operation.as_strategy(generation_mode=mode)
            for mode in (schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE)
        )

        @given(case=cases, known=st.booleans())
        @settings(max_examples=EXAMPLES, derandomize=True, deadline=None, database=None,
                  suppress_health_check=[*HealthCheck])  # fmt: skip
        def ask(case: Any, known: bool) -> None:
            if known and "job" in (case.path_parameters or {}):
                case.path_parameters["job"] = job
            answer = case.call(base_url="http://127.0.0.1")
            case.validate_response(answer, checks=CHECKS)
            answers[answer.status_code] += 1

        ask()
    print(f"{answers.total()} requests: {dict(sorted(answers.items()))}")
    assert {200, 404, 422} <= answers.keys()
