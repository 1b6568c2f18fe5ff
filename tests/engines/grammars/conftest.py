from pathlib import Path

import pytest

from fledge.core.types import silent
from fledge.engines.openvino_files import find_or_export
from fledge.models import snapshot
from fledge.models.snapshot import Snapshot
from tests.engines.grammars.sampler import GrammarSampler


@pytest.fixture(scope="session")
def model() -> Snapshot:
    return snapshot.resolve("embedded")


@pytest.fixture(scope="session")
def exported(model: Snapshot, engine_cache: Path) -> Path:
    return find_or_export(model, engine_cache, "exact", silent)


@pytest.fixture(scope="session")
def sampler(model: Snapshot, exported: Path) -> GrammarSampler:
    return GrammarSampler(model, exported)
