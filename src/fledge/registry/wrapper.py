"""The MLflow model of a release; MLflow runs this file to load one, as in `mlflow models serve`."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

from fledge.chains.engine_llm import build_chain, build_chat_chain
from fledge.core.errors import InputError
from fledge.core.generation import SETTINGS, GenerationParams
from fledge.core.settings import load
from fledge.engines import selection
from fledge.engines.settings import EngineSettings
from fledge.prompts.format import prompt_of
from fledge.registry.rows import Row, read_rows
from fledge.releases.manifest import read_release, snapshot_of

MOST_THREADS = 64  # conversations go to the engine from a thread each


class HuggingFaceModelWrapper(PythonModel):  # type: ignore[misc]
    """Answers each row of the input by the release's prompt, engine and parser."""

    def load_context(self, context: Any) -> None:
        """Check the release's files and start the engine.

        Raises `FledgeError` that names the file that was changed, and loads nothing then.
        """
        folder = Path(context.artifacts["release"])
        self.manifest = read_release(folder)
        self.prompt = prompt_of(self.manifest)
        self.engine = selection.start(load(EngineSettings).value, snapshot_of(folder, self.manifest))

    # Other annotations MLflow would read as a schema, beside the signature that the release has.
    def predict(
        self,
        context: Any,  # noqa: ARG002 (MLflow passes it by this name)
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> list[str]:
        """One answer for each row of anything that `read_rows` takes; all rows are one batch, and calls from several
        threads share the engine. `params` are generation settings for this call.

        Raises `MlflowException` that tells which row is wrong, and why.
        """
        try:
            rows = read_rows(model_input, self.prompt.variables)
            generation = self._generation(params)
            with mlflow.start_span("predict", span_type="CHAIN", attributes=self._about(generation)) as span:
                span.set_inputs(rows)
                answers = self._answers(rows, generation)
                span.set_outputs(answers)
        except InputError as error:
            raise _refused(error) from None
        return answers

    def predict_stream(
        self,
        context: Any,  # noqa: ARG002
        model_input: Any,
        params: dict[str, Any] | None = None,
    ) -> Iterator[str]:
        """The answer to one row, piece by piece."""
        try:
            rows = read_rows(model_input, self.prompt.variables)
            if len(rows) != 1:
                raise InputError(f"predict_stream answers one row, not {len(rows)}", hint="predict")
            generation = self._generation(params)
            span = mlflow.start_span_no_context(
                "predict_stream", span_type="CHAIN", inputs=rows, attributes=self._about(generation)
            )
            answer = ""
            try:
                for piece in self._chain(rows[0], generation).stream(rows[0]):
                    answer += piece
                    yield piece
            finally:
                span.end(outputs=answer)
        except InputError as error:
            raise _refused(error) from None

    def _chain(self, row: Row, generation: GenerationParams) -> Any:
        if isinstance(row, tuple):
            return build_chat_chain(self.prompt, self.engine, generation)
        return build_chain(self.prompt, self.engine, generation)

    def _answers(self, rows: Sequence[Row], generation: GenerationParams) -> list[str]:
        if not rows:
            return []
        chain = self._chain(rows[0], generation)
        if not isinstance(rows[0], tuple) and isinstance(self.prompt.template, str):
            return list(chain.batch(list(rows)))
        found = chain.batch(list(rows), {"max_concurrency": MOST_THREADS}, return_exceptions=True)
        for number, answer in enumerate(found):
            if isinstance(answer, InputError):
                raise InputError(f"row {number}: {answer.message}", answer.hint)
            if isinstance(answer, BaseException):
                raise answer
        return list(found)

    def _generation(self, params: dict[str, Any] | None) -> GenerationParams:
        given = {name: value for name, value in (params or {}).items() if value is not None}
        unknown = sorted(given.keys() - set(SETTINGS))
        if unknown:
            raise InputError(
                f"no generation setting is named {', '.join(unknown)}", hint=f"params: {', '.join(SETTINGS)}"
            )
        settings = {**self.manifest.generation, **given}
        stop = settings["stop"]
        try:
            return GenerationParams(**{**settings, "stop": (stop,) if isinstance(stop, str) else tuple(stop)})
        except (TypeError, ValueError) as error:
            raise InputError(str(error), hint="fix params") from None

    def _about(self, generation: GenerationParams) -> dict[str, Any]:
        return {
            "fledge.release": self.manifest.name,
            "fledge.digest": self.manifest.digest,
            "fledge.prompt": self.manifest.prompt_label,
            "fledge.format": self.manifest.format,
            "fledge.engine": self.engine.info.name,
            **{name: getattr(generation, name) for name in SETTINGS},
        }


def _refused(error: InputError) -> MlflowException:
    # MLflow's server shows the message of its own exceptions only.
    return MlflowException.invalid_parameter_value(f"{error.message} ({error.hint})" if error.hint else error.message)


set_model(HuggingFaceModelWrapper())
