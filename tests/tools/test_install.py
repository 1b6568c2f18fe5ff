"""Installation with `make`: uv gets the settings of pip."""

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.tools import load_tool


@pytest.fixture
def install() -> ModuleType:
    return load_tool("install")


def test_uv_uses_the_indexes_of_pip(install: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pip.conf").write_text(
        "[global]\nindex-url = https://one.example/simple\ncert = /of/the/file.pem\n"
        "find-links =\n    /wheels\n    /more/wheels\n"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    monkeypatch.setenv("PIP_INDEX_URL", "https://two.example/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "https://three.example/simple https://four.example/simple")
    monkeypatch.setenv("PIP_CERT", "/of/the/environment.pem")
    for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS", "PIP_CONSTRAINT"):
        monkeypatch.delenv(name, raising=False)
    settings = install.pip_settings([sys.executable, "-m", "pip"])
    options = " ".join(install.uv_options(settings))  # settings of this machine come last
    assert options.startswith(
        "--default-index https://two.example/simple"
        " --index https://three.example/simple --index https://four.example/simple"
        " --find-links /wheels --find-links /more/wheels"
    )
    assert install.uv_environment(settings)["SSL_CERT_FILE"] == "/of/the/environment.pem"


def test_no_index_of_pip_applies_to_uv(install: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert "--no-index" in list(install.uv_options(install.pip_settings([sys.executable, "-m", "pip"])))


def test_planned_packages_exclude_optional_dependencies(install: ModuleType) -> None:
    lines = "Would install 2 packages\n + torch==2.13.0\n + nvidia-cublas==13.1.1.3\n"
    assert install.planned_packages("", lines, uv=True) == ["torch", "nvidia-cublas"]
    extra = "nvidia-cublas==13.1.1.3; platform_system == 'Windows'"
    report = json.dumps({"install": [{"metadata": {"name": "torch", "requires_dist": [extra]}}]})
    assert install.planned_packages(report, "", uv=False) == ["torch"]
    assert install.planned_packages("", "error: no network", uv=False) == []
