"""The service's application without a network, for the tests of its routes."""

from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from nofinding.data.ehr import FIELDS
from nofinding.service.api.app import make_app
from nofinding.service.api.guard import Guard
from nofinding.service.api.state import Service
from nofinding.service.drifting import Drifting
from nofinding.service.feedback import Feedback
from nofinding.service.home import Home

TOKEN = "a token of more than twenty characters"


def app_for(tmp_path: Path, model: Path | str = "adult", **more: Any) -> Guard:
    """A service without workers under `tmp_path`; `more` are attributes of `Service`."""
    home = more.pop("home", None) or Home(tmp_path / "home", keep_free=0)
    return make_app(
        Service(
            home=home,
            fields=FIELDS,
            drifting=Drifting(home, str(model), FIELDS),
            feedback=Feedback(home.folder / "feedback.sqlite"),
            **more,
        )
    )


def client_of(app: Guard, **more: Any) -> TestClient:
    """Who asks from this machine."""
    return TestClient(app, base_url="http://127.0.0.1:8000", **more)
