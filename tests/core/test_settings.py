from pathlib import Path

import pytest

from fledge.core.errors import InputError
from fledge.core.settings import load, options
from fledge.experiments.config import ExperimentConfig


def test_precedence_is_flag_environment_dotenv_file_default(tmp_path: Path) -> None:
    (tmp_path / "fledge.toml").write_text('samples = 2\nmodel = "from-file"\nengine = "scripted"\nlimit = 9\n')
    (tmp_path / ".env").write_text("FLEDGE_SAMPLES=3\nFLEDGE_MODEL=from-dotenv\nFLEDGE_ENGINE=transformers\n")
    environ = {"FLEDGE_SAMPLES": "4", "FLEDGE_MODEL": "from-environment"}
    resolved = load(ExperimentConfig, {"samples": 5, "model": None}, folder=tmp_path, environ=environ)
    assert resolved.value.samples == 5
    assert resolved.origins["samples"] == "flag"
    assert resolved.value.model == "from-environment"
    assert resolved.value.engine == "transformers"
    assert resolved.origins["engine"] == ".env"
    assert resolved.value.limit == 9
    assert resolved.origins["limit"] == str(tmp_path / "fledge.toml")
    assert resolved.origins["concurrency"] == "default"


def test_pyproject_overrides_the_user_file(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.fledge]\nsamples = 7\n")
    user = tmp_path / "xdg" / "fledge" / "config.toml"
    user.parent.mkdir(parents=True)
    user.write_text("samples = 8\nlimit = 6\n")
    value = load(ExperimentConfig, folder=tmp_path, environ={"XDG_CONFIG_HOME": str(tmp_path / "xdg")}).value
    assert (value.samples, value.limit) == (7, 6)


def test_environment_variables_of_the_proof_of_concept_are_kept() -> None:
    names = {item.name: item.env for item in options(ExperimentConfig)}
    assert names["tracking_uri"] == "MLFLOW_TRACKING_URI"
    assert names["experiment_name"] == "EXPERIMENT_NAME"
    assert names["samples"] == "FLEDGE_SAMPLES"


def test_lists_are_split_at_commas(tmp_path: Path) -> None:
    value = load(ExperimentConfig, {"prompts": "simple, expert"}, folder=tmp_path, environ={}).value
    assert value.prompts == ("simple", "expert")


def test_all_invalid_values_are_named_in_one_message(tmp_path: Path) -> None:
    flags = {"samples": "many", "max_tokens": "x"}
    with pytest.raises(InputError) as caught:
        load(ExperimentConfig, flags, folder=tmp_path, environ={})
    assert "samples = 'many' (flag)" in caught.value.message
    assert "max-tokens = 'x' (flag)" in caught.value.message


def test_value_out_of_range_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="temperature must be from 0 to 2, not 9"):
        load(ExperimentConfig, {"temperature": 9.0}, folder=tmp_path, environ={})


def test_invalid_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "fledge.toml").write_text("samples = \n")
    with pytest.raises(InputError, match=r"fledge\.toml: .*line 1"):
        load(ExperimentConfig, folder=tmp_path, environ={})


def test_several_samples_use_temperature_0_7_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert ExperimentConfig.load({}).generation.temperature == 0
    assert ExperimentConfig.load({"samples": 3}).generation.temperature == 0.7
    assert ExperimentConfig.load({"samples": 3, "temperature": 0.0}).generation.temperature == 0
