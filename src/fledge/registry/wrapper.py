"""The MLflow model of a release; MLflow runs this file to load it, for example in `mlflow models serve`."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from langchain_core.runnables.config import ContextThreadPoolExecutor
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

from fledge.chains.engine_llm import build_chain, build_chat_chain
from fledge.core.errors import InputError
from fledge.core.generation import SETTINGS, GenerationParams, draw_seed
from fledge.core.settings import load
from fledge.engines import selection
from fledge.engines.settings import EngineSettings
from fledge.prompts.format import prompt_of
from fledge.registry.rows import Row, read_rows
from fledge.releases.manifest import read_release, snapshot_of

MOST_THREADS = 64  # each conversation is sent to the engine from its own thread


class HuggingFaceModelWrapper(PythonModel):  # type: ignore[misc]
    """Answers each row of the input with the release's prompt and engine."""

    def load_context(self, context: Any) -> None:
        """Check the release's files and start the engine.

        Raises `FledgeError` that names a changed file, before anything is loaded.
        """
        folder = Path(context.artifacts["release"])
        self.manifest = read_release(folder)
        self.prompt = prompt_of(self.manifest)
        self.engine = selection.start(load(EngineSettings).value, snapshot_of(folder, self.manifest))

    # MLflow would derive a schema from other annotations, in conflict with the release's signature.
    def predict(
        self,
        context: Any,  # noqa: ARG002 (MLflow passes it by this name)
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> list[str]:
        """Return an answer for each row of any input that `read_rows` takes, generated as one batch.

        `params` are generation settings for this call. Threads may call this concurrently. Raises `MlflowException`
        that names the invalid row or setting.
        """
        try:
            rows = read_rows(model_input, self.prompt.variables)
            generation = self._parse_params(params)
            with mlflow.start_span("predict", span_type="CHAIN", attributes=self._span_attributes(generation)) as span:
                span.set_inputs(rows)
                answers = self._answer(rows, generation)
                span.set_outputs(answers)
        except InputError as error:
            raise _to_mlflow_error(error) from None
        return answers

    def predict_stream(
        self,
        context: Any,  # noqa: ARG002
        model_input: Any,
        params: dict[str, Any] | None = None,
    ) -> Iterator[str]:
        """Yield the answer to one row in pieces. Raises as `predict` does."""
        try:
            rows = read_rows(model_input, self.prompt.variables)
            if len(rows) != 1:
                raise InputError(f"predict_stream answers one row, not {len(rows)}", hint="predict")
            generation = self._parse_params(params)
            span = mlflow.start_span_no_context(
                "predict_stream", span_type="CHAIN", inputs=rows, attributes=self._span_attributes(generation)
            )
            answer = ""
            try:
                for piece in self._build_chain(rows[0], generation).stream(rows[0]):
                    answer += piece
                    yield piece
            finally:
                span.end(outputs=answer)
        except InputError as error:
            raise _to_mlflow_error(error) from None

    def _build_chain(self, row: Row, generation: GenerationParams) -> Any:
        if isinstance(row, tuple):
            return build_chat_chain(self.prompt, self.engine, generation)
        return build_chain(self.prompt, self.engine, generation)

    def _answer(self, rows: Sequence[Row], generation: GenerationParams) -> list[str]:
        if not rows:
            return []
        if not isinstance(rows[0], tuple) and isinstance(self.prompt.template, str):
            return list(self._build_chain(rows[0], generation).batch(list(rows)))

        def answer(number: int) -> str:
            try:
                return str(self._build_chain(rows[number], generation.for_sample(number)).invoke(rows[number]))
            except InputError as error:
                raise InputError(f"row {number}: {error.message}", error.hint) from None

        with ContextThreadPoolExecutor(MOST_THREADS) as pool:
            return list(pool.map(answer, range(len(rows))))

    def _parse_params(self, params: dict[str, Any] | None) -> GenerationParams:
        given = {name: value for name, value in (params or {}).items() if value is not None}
        unknown = sorted(given.keys() - set(SETTINGS))
        if unknown:
            raise InputError(f"unknown generation setting: {', '.join(unknown)}", hint=f"params: {', '.join(SETTINGS)}")
        settings = {**self.manifest.generation, "seed": draw_seed(), **given}
        stop = settings["stop"]
        try:
            return GenerationParams(**{**settings, "stop": (stop,) if isinstance(stop, str) else tuple(stop)})
        except (TypeError, ValueError) as error:
            raise InputError(str(error), hint="fix params") from None

    def _span_attributes(self, generation: GenerationParams) -> dict[str, Any]:
        return {
            "fledge.release": self.manifest.name,
            "fledge.digest": self.manifest.digest,
            "fledge.prompt": self.manifest.prompt_label,
            "fledge.format": self.manifest.format,
            "fledge.engine": self.engine.info.name,
            **{name: getattr(generation, name) for name in SETTINGS},
        }


def _to_mlflow_error(error: InputError) -> MlflowException:
    # MLflow's server shows only the messages of its own exceptions.
    return MlflowException.invalid_parameter_value(f"{error.message} ({error.hint})" if error.hint else error.message)


set_model(HuggingFaceModelWrapper())
