"""MLflow's deployments, as `mlflow deployments create -t fledge`: a deployment is an endpoint with a name."""

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
    """What `mlflow deployments help -t fledge` says."""
    known = "\n".join(f"  -C {item.name}={item.default}  {item.help}" for item in options(ServeConfig) if item.is_flag)
    return (
        "A deployment is an endpoint of fledge on this machine, which serves a release: what `fledge register` "
        "registered.\n\n"
        "  mlflow deployments create -t fledge --name chat -m models:/NAME@champion -C port=5001\n\n"
        f"Settings:\n{known}"
    )


def run_local(
    name: str, model_uri: str, flavor: str | None = None, config: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The same as creating a deployment: all of them are local."""
    return FledgeDeployments("fledge").create_deployment(name, model_uri, flavor, config)


@contextmanager
def _mlflow_errors() -> Iterator[None]:
    """Errors of ours as MLflow's, which its commands and callers expect."""
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
        """Serve a release under a name; returns when it is ready. `config` holds settings of `fledge serve`."""
        _plain(flavor, endpoint)
        if _running(name) is not None:
            raise InputError(f"there is a deployment {name!r} already", hint=f"mlflow deployments update --name {name}")
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
        """Serve another release, or with other settings; requests that run finish first. What is not given stays, and
        all of it does where the new one does not start."""
        _plain(flavor, endpoint)
        kept, running = _read(name), _running(name)
        chosen = model_uri or kept["model_uri"]
        settings = {**kept["config"], **(config or {})}
        release_folder(_release(chosen), _settings(settings))  # before anything is stopped for it
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
        """Stop the endpoint; nothing happens if there is none."""
        _plain(None, endpoint)
        if _running(name) is not None:
            endpoints.stop(_read(name)["port"], workspace=_settings(_read(name)["config"]))
        _record(name).unlink(missing_ok=True)

    @_mlflow_errors()
    def list_deployments(self, endpoint: str | None = None) -> list[dict[str, Any]]:
        """Each with `name, url, state, model_uri, version`; a `state` of `stopped` where its endpoint has ended."""
        _plain(None, endpoint)
        return [_described(path.stem) for path in sorted(_folder().glob("*.json"))]

    @_mlflow_errors()
    def get_deployment(self, name: str, endpoint: str | None = None) -> dict[str, Any]:
        """As `list_deployments` has it."""
        _plain(None, endpoint)
        return _described(name)

    @_mlflow_errors()
    def predict(
        self, deployment_name: str | None = None, inputs: Any = None, endpoint: str | None = None
    ) -> PredictionsResponse:
        """Answers to the rows of a DataFrame, or of anything that `/invocations` takes as `inputs`."""
        _plain(None, endpoint)
        rows: Any = inputs.to_dict("records") if isinstance(inputs, pd.DataFrame) else inputs
        with Client(_live(deployment_name).url) as client:
            return PredictionsResponse({"predictions": list(client.predict(rows).texts)})

    def predict_stream(
        self, deployment_name: str | None = None, inputs: Any = None, endpoint: str | None = None
    ) -> Iterator[dict[str, Any]]:
        """Chunks of a chat completion; `inputs` are its `messages` and settings, as OpenAI has them."""
        with _mlflow_errors():
            _plain(None, endpoint)
            with Client(_live(deployment_name).url) as client:
                for part in client.chat(stream=True, **inputs):
                    if part.raw:  # the first part is the head alone
                        yield dict(part.raw)


def _serve(name: str, model_uri: str, settings: dict[str, Any]) -> dict[str, Any]:
    config = _settings(settings)
    endpoints.serve(_release(model_uri), config=config)
    content = {"model_uri": model_uri, "port": config.port, "config": settings}
    state.ensure(_folder())
    state.write_json(_record(name), content)
    return {**_described(name), "flavor": FLAVOR}


def _described(name: str) -> dict[str, Any]:
    kept, running = _read(name), _running(name)
    found: dict[str, Any] = {"name": name, "model_uri": kept["model_uri"], "state": "stopped"}
    if running is not None:
        release = running.releases[0]
        found |= {"state": running.state, "url": running.url, "version": release.version}
    return found


def _live(name: str | None) -> EndpointStatus:
    if not name:
        raise InputError("name a deployment", hint="mlflow deployments list -t fledge")
    _read(name)
    running = _running(name)
    if running is None:
        hint = f"mlflow deployments update -t fledge --name {name}"
        raise FledgeError(f"the endpoint of {name} has ended", hint=hint)
    return running


def _running(name: str) -> EndpointStatus | None:
    """The endpoint of a deployment; None where there is none, or it has ended."""
    if not _record(name).is_file():
        return None
    kept = _read(name)
    running = endpoints.status(workspace=_settings(kept["config"]))
    here = next((item for item in running if item.url.endswith(f":{kept['port']}")), None)
    # Another may have the port by now.
    return here if here and endpoints.targets(here) == [kept["model_uri"]] else None


def _read(name: str) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(_record(name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise InputError(f"there is no deployment {name!r}", hint="mlflow deployments list -t fledge") from None
    return content


def _record(name: str) -> Path:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}", name):
        raise InputError(f"{name!r} cannot be the name of a deployment", hint="letters, digits, '_' and '-'")
    return _folder() / f"{name}.json"


def _folder() -> Path:
    return _settings({}).state_dir / "deployments"


def _settings(given: Mapping[str, Any]) -> ServeConfig:
    known = {item.name for item in options(ServeConfig)}
    named = {key.replace("-", "_"): value for key, value in given.items()}
    unknown = sorted(named.keys() - known)
    if unknown:
        raise InputError(f"no setting is named {', '.join(unknown)}", hint="mlflow deployments help -t fledge")
    return load(ServeConfig, named).value


def _release(model_uri: str) -> str:
    if not is_release(model_uri):
        raise InputError(
            f"{model_uri} is no release: only what fledge registered can be checked and served",
            hint="fledge register, then -m models:/NAME/VERSION",
        )
    return model_uri


def _plain(flavor: str | None, endpoint: str | None) -> None:
    if flavor not in (None, FLAVOR):
        raise InputError(f"a release is of the flavor {FLAVOR}, not {flavor}", hint="leave --flavor out")
    if endpoint is not None:
        raise InputError("a deployment is an endpoint of its own here", hint="leave --endpoint out")
