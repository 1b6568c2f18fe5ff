"""Concurrent promotions by two processes."""

import time

import pytest

from fledge.core.settings import Workspace
from tests.registry.test_moves import contest, released

__all__ = ["released"]

pytestmark = pytest.mark.soak


def test_one_promotion_wins_in_each_of_200_rounds(released: Workspace) -> None:
    began = time.monotonic()
    contest(released, 200)
    print(f"200 rounds in {time.monotonic() - began:.0f} s")
