"""Notes in a history."""

import pytest

from fledge.core.errors import RefusedError
from fledge.core.generation import GenerationParams
from fledge.core.settings import Workspace
from fledge.experiments.config import ExperimentConfig
from fledge.registry._mlflow_canary_runs import record_canary
from fledge.registry.release import history, note, promote, register, rollback

pytestmark = pytest.mark.slow


@pytest.fixture
def released(workspace: Workspace) -> Workspace:
    """Register three releases of `mine`."""
    for tokens in (4, 5, 6):
        generation = GenerationParams(max_tokens=tokens)
        config = ExperimentConfig(tracking_uri=workspace.tracking_uri, state=workspace.state, generation=generation)
        register(config, name="mine")
    return workspace


def test_note_is_shown_and_does_not_affect_moves(released: Workspace) -> None:
    uri = released.tracking
    promote("mine", 1, force=True, reason="first", workspace=released)
    note(uri, "mine", "champion", "refused", 1, 3, "could not be served")
    promote("mine", 2, force=True, reason="second", workspace=released)
    note(uri, "mine", "challenger", "canary", 2, 3, "rolled back", evidence="run")
    assert rollback("mine", workspace=released).after == 1
    shown = [(item.action, item.before, item.after, item.forced) for item in history("mine", workspace=released)]
    assert shown == [
        ("rollback", 2, 1, False),
        ("canary", 2, 3, False),
        ("promote", 1, 2, True),
        ("refused", 1, 3, False),
        ("promote", None, 1, True),
    ]


def test_passed_canary_is_evidence_for_its_release(released: Workspace) -> None:
    uri = released.tracking
    failed = record_canary(uri, "mine", 2, False, "at 5 % of the requests: error_rate<=+1%: 0.5 against 0", [])
    passed = record_canary(uri, "mine", 2, True, "at 100 % of the requests: error_rate<=+1%: 0 against 0", [])
    with pytest.raises(RefusedError, match="its canary was rolled back at 5 %"):
        promote("mine", 2, evidence=failed, workspace=released)
    with pytest.raises(RefusedError, match="the canary of another release"):
        promote("mine", 3, evidence=passed, workspace=released)
    assert promote("mine", 2, evidence=passed, workspace=released).reason.startswith("passed its canary at 100 %")
