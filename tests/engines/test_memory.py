"""Estimated memory of an engine, compared with its real memory."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from fledge.bench.processes import random_model
from fledge.core.errors import FledgeError
from fledge.core.settings import Workspace
from fledge.core.types import Mode
from fledge.engines.memory import cache_blocks, check, describe, estimate
from fledge.models import snapshot

pytestmark = pytest.mark.slow

BUSY = """
import json, sys
import psutil
from fledge.engines import selection
from fledge.core.generation import GenerationParams
from fledge.engines.engine import generate
from fledge.engines.settings import EngineSettings
from fledge.models import snapshot

engine = selection.start(EngineSettings(mode=sys.argv[2], engine="openvino"), snapshot.resolve(sys.argv[1]))
prompts = [f"word {number} " * 40 for number in range(64)]
generate(engine, prompts, GenerationParams(max_tokens=32, ignore_eos=True))
process = psutil.Process()
rss = [item.memory_info().rss for item in [process, *process.children(recursive=True)]]
print(json.dumps(max(rss)))
engine.close()
"""


def _measure(model: str, mode: Mode) -> int:
    """Return the resident bytes of an engine process with a full cache."""
    command = [sys.executable, "-c", BUSY, model, mode]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stderr
    return int(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("mode", ["exact", "fast"])
@pytest.mark.parametrize("name", ["embedded", "random"])
def test_the_estimate_is_close_to_the_measured_memory(name: str, mode: Mode, engine_cache: Path) -> None:
    model = name if name == "embedded" else str(random_model(Workspace().cache_dir, lambda _: None))
    estimated = estimate(snapshot.resolve(model), "openvino", mode, 0.0).total
    assert estimated == pytest.approx(_measure(model, mode), rel=0.25)


def test_the_estimate_includes_the_cache() -> None:
    model = snapshot.resolve("embedded")
    small, large = (estimate(model, "openvino", "exact", size).cache for size in (0.01, 0.5))
    assert small == pytest.approx(10e6, rel=0.2)
    assert large == pytest.approx(0.5e9, rel=0.2)
    assert cache_blocks(model, "exact", 0.000001) == model.context // 32 + 1  # one answer always fits


def test_too_little_free_memory_is_a_warning_and_too_little_memory_an_error() -> None:
    model = snapshot.resolve("embedded")
    need = estimate(model, "openvino", "exact", 0.0)
    assert not describe("it", need, need.total + 1, "wait").startswith("warning")
    warning = describe("it", need, need.total - 1, "use a smaller model")
    assert warning.startswith("warning: the engine of it will take about")
    assert warning.endswith("are available; use a smaller model")
    assert check(model, "openvino", "exact", 0.0)
    with pytest.raises(FledgeError, match=r"need 80000\.0 GB in exact mode, but this machine has"):
        check(replace(model, parameters=10**13), "openvino", "exact", 0.0)
