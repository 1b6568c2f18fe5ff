"""Judge on an OpenAI-compatible server, built on MLflow's `make_judge`."""

import os

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_MODEL_CATALOG_URI", "")  # otherwise it fetches prices from GitHub

from mlflow.exceptions import MlflowException
from mlflow.genai.judges import make_judge

from fledge.core.api_key import VARIABLE, api_key
from fledge.core.network import check_answers
from fledge.scoring.judge import BEST, WORST, Judge, JudgeConfig, Judgement, NoAnswerError, NotUnderstoodError

ALONE = "Answer with the JSON object alone, without any other word."
UNPARSED = "Failed to parse"


def open_judge(config: JudgeConfig) -> Judge:
    """Open the configured judge; its key is `OPENAI_API_KEY`. Raises `FledgeError` if the server does not respond."""
    model = MlflowJudgeModel(config)
    check_answers(config.judge.partition("#")[0])
    return Judge(
        model,
        retries=config.judge_retries,
        max_concurrency=config.judge_concurrency,
        timeout_s=config.judge_timeout,
    )


class MlflowJudgeModel:
    """Judges made by MLflow, which writes the prompt, requests JSON by schema, and retries transient errors."""

    def __init__(self, config: JudgeConfig) -> None:
        base, _, name = config.judge.partition("#")
        grade = (
            "Grade the answer in {{ outputs }} to the question in {{ inputs }} with a whole number from "
            f"{WORST} (poor) to {BEST} (excellent). {config.criteria}"
        )
        prefer = (
            "Which of the two answers in {{ outputs }} to the question in {{ inputs }} is better? "
            f"Say first, second, or tie. Their order means nothing. {config.criteria}"
        )
        os.environ[VARIABLE] = api_key() or "none"  # MLflow reads it there and requires one
        os.environ["MLFLOW_GATEWAY_ROUTE_TIMEOUT_SECONDS"] = str(max(1, int(config.judge_timeout)))
        self._judges = {
            (kind, again): make_judge(
                name=f"fledge_{kind}",
                instructions=f"{text} {{{{ expectations }}}} {ALONE if again else ''}".strip(),
                model=f"openai:/{name or 'default'}",
                feedback_value_type=int if kind == "grade" else str,
                inference_params={"temperature": 0.0},
                base_url=f"{base.rstrip('/')}/chat/completions",
            )
            for kind, text in (("grade", grade), ("prefer", prefer))
            for again in (False, True)
        }

    def grade(self, question: str, answer: str, reference: str | None, *, again: bool) -> Judgement:
        return self._ask("grade", question, {"answer": answer}, reference, again)

    def prefer(self, question: str, first: str, second: str, reference: str | None, *, again: bool) -> Judgement:
        return self._ask("prefer", question, {"first": first, "second": second}, reference, again)

    def _ask(self, kind: str, question: str, outputs: dict[str, str], reference: str | None, again: bool) -> Judgement:
        expected = {"expected_response": reference} if reference else {"expected_response": "(none is given)"}
        judge = self._judges[kind, again]
        try:
            found = judge(inputs={"question": question}, outputs=outputs, expectations=expected)
        except MlflowException as error:
            text = str(error).splitlines()[0] if str(error) else type(error).__name__
            if UNPARSED in text:
                raise NotUnderstoodError(text[:300]) from None
            raise NoAnswerError(f"the judge does not answer: {text[:300]}", hint="see the judge's log") from None
        except (TypeError, LookupError, ValueError, AttributeError) as error:  # MLflow expects an object
            raise NotUnderstoodError(f"{type(error).__name__}: {error}") from None
        if found.error is not None or found.value is None:
            raise NotUnderstoodError(f"no value: {found.error}")
        return Judgement(found.value, str(found.rationale or ""))
