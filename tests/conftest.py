"""Comes before the other conftest files, which import torch: its threads are told how to wait."""

import nofinding  # noqa: F401
