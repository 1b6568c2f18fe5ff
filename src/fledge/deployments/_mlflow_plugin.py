"""The plugin for `mlflow deployments -t fledge`: a deployment is a named endpoint on this machine."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.deployments import BaseDeploymentClient, PredictionsResponse
from mlflow.exceptions import MlflowException

from fledge.client.client import Client
from fledge.core import state
from fledge.core.errors import FledgeError, InputError
from fledge.core.settings import load, options
from fledge.engines.selection import is_release, release_folder
from fledge.supervision import endpoints
from fledge.supervision.config import ServeConfig
from fledge.supervision.endpoints import EndpointStatus

FLAVOR = "python_function"


def target_help() -> str:
    """Return the text of `mlflow deployments help -t fledge`."""
    known = "\n".join(f"  -C {item.name}={item.default}  {item.help}" for item in options(ServeConfig) if item.is_flag)
    return (
        "A deployment is a fledge endpoint on this machine that serves a release registered with `fledge register`."
        "\n\n"
        "  mlflow deployments create -t fledge --name chat -m models:/NAME@champion -C port=5001\n\n"
        f"Settings:\n{known}"
    )


def run_local(
    name: str, model_uri: str, flavor: str | None = None, config: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Create a deployment; all deployments are local."""
    return FledgeDeployments("fledge").create_deployment(name, model_uri, flavor, config)


@contextmanager
def _mlflow_errors() -> Iterator[None]:
    """Raise a `FledgeError` as the `MlflowException` that MLflow's commands and callers expect."""
    try:
        yield
    except FledgeError as error:
        text = f"{error.message} ({error.hint})" if error.hint else error.message
        raise MlflowException(text) from None


class FledgeDeployments(BaseDeploymentClient):  # type: ignore[misc]
    """Deployments by name; each is recorded in `.fledge/deployments/NAME.json`."""

    @_mlflow_errors()
    def create_deployment(
        self,
        name: str,
        model_uri: str,
        flavor: str | None = None,
        config: Mapping[str, Any] | None = None,
        endpoint: str | None = None,
    ) -> dict[str, Any]:
        """Serve a release as `name` and return when it is ready. `config` holds settings of `fledge serve`."""
        _check_unused(flavor, endpoint)
        if _running_endpoint(name) is not None:
            raise InputError(
                f"deployment {name!r} already exists", hint=f"mlflow deployments update -t fledge --name {name}"
            )
        return _serve(name, model_uri, dict(config or {}))

    @_mlflow_errors()
    def update_deployment(
        self,
        name: str,
        model_uri: str | None = None,
        flavor: str | None = None,
        config: Mapping[str, Any] | None = None,
        endpoint: str | None = None,
    ) -> dict[str, Any]:
        """Change the release or the settings of a deployment; arguments left out keep their value.

        Running requests finish first. If the new release does not start, the previous one is served again.
        """
        _check_unused(flavor, endpoint)
        kept, running = _read_record(name), _running_endpoint(name)
        chosen = model_uri or kept["model_uri"]
        settings = {**kept["config"], **(config or {})}
        release_folder(_check_release(chosen), _settings(settings))  # fail before the running endpoint is stopped
        if running is not None:
            endpoints.stop(kept["port"], workspace=_settings(kept["config"]))
        try:
            return _serve(name, chosen, settings)
        except FledgeError:
            _serve(name, kept["model_uri"], kept["config"])
            raise

    @_mlflow_errors()
    def delete_deployment(
        self,
        name: str,
        config: Mapping[str, Any] | None = None,  # noqa: ARG002 (MLflow's interface)
        endpoint: str | None = None,
    ) -> None:
        """Stop the endpoint and forget the deployment; do nothing if it does not exist."""
        _check_unused(None, endpoint)
        if _running_endpoint(name) is not None:
            endpoints.stop(_read_record(name)["port"], workspace=_settings(_read_record(name)["config"]))
        _record_path(name).unlink(missing_ok=True)

    @_mlflow_errors()
    def list_deployments(self, endpoint: str | None = None) -> list[dict[str, Any]]:
        """Return `name, model_uri, state` of each deployment, with `url, version` unless its state is `stopped`."""
        _check_unused(None, endpoint)
        return [_describe(path.stem) for path in sorted(_folder().glob("*.json"))]

    @_mlflow_errors()
    def get_deployment(self, name: str, endpoint: str | None = None) -> dict[str, Any]:
        """Return one deployment, as `list_deployments` does."""
        _check_unused(None, endpoint)
        return _describe(name)

    @_mlflow_errors()
    def predict(
        self, deployment_name: str | None = None, inputs: Any = None, endpoint: str | None = None
    ) -> PredictionsResponse:
        """Return answers to the rows of a DataFrame, or of any `inputs` that `/invocations` takes."""
        _check_unused(None, endpoint)
        rows: Any = inputs.to_dict("records") if isinstance(inputs, pd.DataFrame) else inputs
        with Client(_find_running(deployment_name).url) as client:
            return PredictionsResponse({"predictions": list(client.predict(rows).texts)})

    def predict_stream(
        self, deployment_name: str | None = None, inputs: Any = None, endpoint: str | None = None
    ) -> Iterator[dict[str, Any]]:
        """Yield chunks of a chat completion; `inputs` are an OpenAI request: `messages` and settings."""
        with _mlflow_errors():
            _check_unused(None, endpoint)
            with Client(_find_running(deployment_name).url) as client:
                for part in client.chat(stream=True, **inputs):
                    if part.raw:  # the first part is only the header
                        yield dict(part.raw)


def _serve(name: str, model_uri: str, settings: dict[str, Any]) -> dict[str, Any]:
    config = _settings(settings)
    endpoints.serve(_check_release(model_uri), config=config)
    content = {"model_uri": model_uri, "port": config.port, "config": settings}
    state.ensure(_folder())
    state.write_json(_record_path(name), content)
    return {**_describe(name), "flavor": FLAVOR}


def _describe(name: str) -> dict[str, Any]:
    kept, running = _read_record(name), _running_endpoint(name)
    found: dict[str, Any] = {"name": name, "model_uri": kept["model_uri"], "state": "stopped"}
    if running is not None:
        release = running.releases[0]
        found |= {"state": running.state, "url": running.url, "version": release.version}
    return found


def _find_running(name: str | None) -> EndpointStatus:
    if not name:
        raise InputError("name a deployment", hint="mlflow deployments list -t fledge")
    _read_record(name)
    running = _running_endpoint(name)
    if running is None:
        hint = f"mlflow deployments update -t fledge --name {name}"
        raise FledgeError(f"the endpoint of deployment {name!r} is stopped", hint=hint)
    return running


def _running_endpoint(name: str) -> EndpointStatus | None:
    """Return the running endpoint of a deployment, None if there is none."""
    if not _record_path(name).is_file():
        return None
    kept = _read_record(name)
    running = endpoints.status(workspace=_settings(kept["config"]))
    here = next((item for item in running if item.url.endswith(f":{kept['port']}")), None)
    # Another endpoint may use the port now.
    return here if here and endpoints.targets(here) == [kept["model_uri"]] else None


def _read_record(name: str) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(_record_path(name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise InputError(f"no deployment {name!r}", hint="mlflow deployments list -t fledge") from None
    return content


def _record_path(name: str) -> Path:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}", name):
        raise InputError(f"invalid deployment name {name!r}", hint="use letters, digits, '_' and '-'")
    return _folder() / f"{name}.json"


def _folder() -> Path:
    return _settings({}).state_dir / "deployments"


def _settings(given: Mapping[str, Any]) -> ServeConfig:
    known = {item.name for item in options(ServeConfig)}
    named = {key.replace("-", "_"): value for key, value in given.items()}
    unknown = sorted(named.keys() - known)
    if unknown:
        raise InputError(f"unknown setting: {', '.join(unknown)}", hint="mlflow deployments help -t fledge")
    return load(ServeConfig, named).value


def _check_release(model_uri: str) -> str:
    if not is_release(model_uri):
        raise InputError(
            f"{model_uri} is not a release: only models registered with fledge can be served",
            hint="fledge register, then -m models:/NAME/VERSION",
        )
    return model_uri


def _check_unused(flavor: str | None, endpoint: str | None) -> None:
    if flavor not in (None, FLAVOR):
        raise InputError(f"a release has the flavor {FLAVOR}, not {flavor}", hint="leave out --flavor")
    if endpoint is not None:
        raise InputError("--endpoint is not supported: a deployment is its own endpoint", hint="leave out --endpoint")
