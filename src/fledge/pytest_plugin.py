"""pytest plugin: the fixture `fledge_evaluate` calls `fledge.evaluate` and fails the test if a gate fails."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from fledge.experiments.evaluation import Evaluation


@pytest.fixture
def fledge_evaluate() -> Callable[..., "Evaluation"]:
    """Evaluate: `fledge_evaluate("name@champion", "token_f1>=0.6", settings={"questions": "questions.jsonl"})`."""

    def evaluate(target: str, gates: str, **options: Any) -> "Evaluation":
        import fledge

        found = fledge.evaluate(target, gates, **options)
        if not found.passed:
            pytest.fail(f"{target}, run {found.run_id}\n" + "\n".join(found.summary()), pytrace=False)
        return found

    return evaluate
