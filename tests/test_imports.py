"""torch, transformers and mlflow are loaded only by files that are named for them."""

import json
import subprocess
import sys
from pathlib import Path

import fledge

ROOT = Path(fledge.__file__).parent
HEAVY = ("torch", "transformers", "mlflow")
NAMED_FOR_THEM = {
    "fledge.engines.openvino",
    "fledge.engines.transformers",
    "fledge.engines.transformers_load",
    "fledge.engines.transformers_paged",
    "fledge.models.embedded.train",
    "fledge.registry.wrapper",
}


def _modules() -> list[str]:
    names = []
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        name = ".".join(parts).removesuffix(".__init__")
        if not path.name.startswith(("_mlflow", "_hf")) and name not in NAMED_FOR_THEM:
            names.append(name)
    return names


def test_no_other_module_loads_them() -> None:
    program = f"""
import importlib, json, sys
found = {{}}
for name in {_modules()!r}:
    importlib.import_module(name)
    loaded = [heavy for heavy in {HEAVY!r} if heavy in sys.modules]
    if loaded:
        found[name] = loaded
        break
print(json.dumps(found))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {}


def test_the_supervisor_needs_the_standard_library_only() -> None:
    program = """
import sys
import fledge.supervision.supervisor
print(sorted({name.partition(".")[0] for name in sys.modules} - set(sys.stdlib_module_names) - {"fledge"}))
"""
    command, environment = [sys.executable, "-S", "-c", program], {"PYTHONPATH": str(ROOT.parent)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.replace("'", '"')) in ([], ["__main__"])
