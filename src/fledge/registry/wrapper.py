"""The MLflow model of a release; MLflow runs this file to load one, as in `mlflow models serve`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

from fledge.chains.engine_llm import build_chain
from fledge.core.errors import InputError
from fledge.core.settings import load
from fledge.models import selection, snapshot
from fledge.models.engine import GenerationParams
from fledge.models.manifest import FILES, read_release
from fledge.models.selection import EngineSettings
from fledge.prompts.prompt import Prompt


class HuggingFaceModelWrapper(PythonModel):  # type: ignore[misc]
    """Answers each row of the input by the release's prompt, engine and parser."""

    def load_context(self, context: Any) -> None:
        """Check the release's files and start the engine."""
        folder = Path(context.artifacts["release"])
        self.manifest = read_release(folder)
        model = snapshot.check(folder / FILES, source=self.manifest.model, commit=self.manifest.commit)
        self.engine = selection.start(load(EngineSettings).value, model)

    # Other annotations MLflow would read as a schema, beside the signature that the release has.
    def predict(
        self,
        context: Any,  # noqa: ARG002 (MLflow passes it by this name)
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> list[str]:
        """One answer for each row; the whole input is one batch. `params` are generation settings for this call."""
        prompt = Prompt(self.manifest.prompt_name, self.manifest.prompt_version, self.manifest.template)
        rows = _rows(model_input, prompt.variables)
        settings = {
            **self.manifest.generation,
            **{key: value for key, value in (params or {}).items() if value is not None},
        }
        chain = build_chain(prompt, self.engine, GenerationParams(**settings))
        with mlflow.start_span("predict", span_type="CHAIN") as span:
            span.set_inputs(rows)
            answers = chain.batch(rows)
            span.set_outputs(answers)
        return answers


def _rows(model_input: Any, names: tuple[str, ...]) -> list[Mapping[str, str]]:
    """Rows of template variables from a DataFrame, a dict, a list of dicts or texts, or one text."""
    if isinstance(model_input, pd.DataFrame):
        model_input = model_input.to_dict("records")
    if isinstance(model_input, (str, dict)):
        model_input = [model_input]
    rows: list[Mapping[str, str]] = [{names[0]: item} if isinstance(item, str) else dict(item) for item in model_input]
    for number, row in enumerate(rows):
        for name in names:
            if not isinstance(row.get(name), str):
                raise InputError(f"row {number}: column {name!r} must be a text", hint=f"columns: {', '.join(names)}")
    return rows


set_model(HuggingFaceModelWrapper())
