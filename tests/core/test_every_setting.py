"""Each setting can be set by flag, environment, `.env`, `fledge.toml` and Python."""

import json
import typing
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import pytest

from fledge.chat.session import ChatConfig
from fledge.core.errors import InputError
from fledge.core.settings import Option, Workspace, flat, load, options
from fledge.experiments.config import ExperimentConfig
from fledge.questions.versions import QuestionsConfig
from fledge.registry.release import ReleaseConfig
from fledge.scoring.judge import JudgeConfig
from fledge.supervision.config import ServeConfig

CLASSES: tuple[Any, ...] = (
    *(Workspace, ExperimentConfig, ReleaseConfig, ServeConfig),
    *(ChatConfig, QuestionsConfig, JudgeConfig),
)
TEXTS = (
    *("simple", "champion=60,challenger=40", "challenger=10%", "contains", "a=b", "10m", "1,50", "cpu", "exact"),
    *("http://127.0.0.1:9/v1#a", "a"),
)

TOGETHER = {"tls_cert": {"tls_key": "a"}, "tls_key": {"tls_cert": "a"}, "shots_from": {"shots": "3"}}


def _candidates(item: Option) -> Iterator[Any]:
    kind = item.base_type
    if kind is bool:
        yield not item.default
    elif kind in (int, float):
        low = item.default or 0
        yield from (kind(value) for value in (low + 1, low + 0.25, low / 2, 0.5, 2) if value != item.default)
    elif typing.get_origin(kind) is typing.Literal:
        yield from (value for value in typing.get_args(kind) if value != item.default)
    else:
        yield from TEXTS


def _choose_value(cls: Any, item: Option) -> Any:
    """Return a value of the setting other than its default, valid with the defaults of the others."""
    for value in _candidates(item):
        try:
            found = load(cls, {item.name: value, **TOGETHER.get(item.name, {})}, environ={})
        except InputError:
            continue
        if dict(flat(found.value))[item.name] != item.default:
            return value
    raise AssertionError(f"found no value for {item.name}")


def _parameters() -> Iterator[Any]:
    for cls in CLASSES:
        for item in options(cls):
            if item.is_flag:
                yield pytest.param(cls, item, id=f"{cls.__name__}.{item.name}")


def _is_field(cls: Any, name: str) -> bool:
    kind = typing.get_type_hints(cls).get(name)
    return kind is not None and not is_dataclass(kind)


@pytest.mark.parametrize(("cls", "item"), list(_parameters()))
def test_setting_is_read_from_every_source(
    cls: Any, item: Option, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    for name in ("MLFLOW_TRACKING_URI", "EXPERIMENT_NAME", "MODEL_NAME"):
        monkeypatch.delenv(name, raising=False)
    value = _choose_value(cls, item)
    others = TOGETHER.get(item.name, {})

    def loaded(**flags: Any) -> Any:
        return dict(flat(load(cls, {**flags, **others}).value))[item.name]

    def from_python(**given: Any) -> Any:
        return dict(flat(cls(**given, **others)))[item.name]

    expected = loaded(**{item.name: value})
    if _is_field(cls, item.name):
        assert from_python(**{item.name: value}) == expected
    text = str(value).lower() if isinstance(value, bool) else str(value)
    with monkeypatch.context() as patch:
        patch.setenv(item.env, text)
        assert (loaded(), from_python()) == (expected, expected)
    (tmp_path / ".env").write_text(f"{item.env}={json.dumps(text)}\n")
    assert (loaded(), from_python()) == (expected, expected)
    (tmp_path / ".env").unlink()
    (tmp_path / "fledge.toml").write_text(f"{item.name} = {json.dumps(value)}\n")
    assert (loaded(), from_python()) == (expected, expected)


def test_nested_settings_of_the_wrong_type_are_refused() -> None:
    with pytest.raises(InputError, match="generation must be a GenerationParams, not 'greedy'"):
        ExperimentConfig(generation="greedy")  # type: ignore[arg-type]
