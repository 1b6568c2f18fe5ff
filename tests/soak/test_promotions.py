"""Two processes promote at the same time, 200 rounds."""

import time

import pytest

from fledge.core.settings import Workspace
from tests.registry.test_moves import contest, released

__all__ = ["released"]

pytestmark = pytest.mark.soak


def test_two_hundred_rounds(released: Workspace) -> None:
    began = time.monotonic()
    contest(released, 200)
    print(f"200 rounds in {time.monotonic() - began:.0f} s")
