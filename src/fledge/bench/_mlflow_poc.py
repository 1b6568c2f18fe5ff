"""A peer of `bench serve`: an MLflow model with one LangChain call per row, for `mlflow models serve`. As a program it
registers that model: `python _mlflow_poc.py JSON`.

It runs in an environment without fledge.
"""

import json
import sys
import threading
import warnings
from functools import partial
from typing import Any

import mlflow
import pandas as pd
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompt_values import PromptValue
from langchain_core.prompts import PromptTemplate
from langchain_huggingface import HuggingFacePipeline
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

REQUIREMENTS = ["mlflow", "torch", "transformers", "langchain-core", "langchain-huggingface"]


class PocModelWrapper(PythonModel):  # type: ignore[misc]
    """The proof-of-concept model. It returns the number of tokens with each answer."""

    def load_context(self, context: Any) -> None:
        folder, tokens = context.artifacts["model"], context.model_config["tokens"]
        model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, use_safetensors=True)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.counts = _count_tokens(model)
        generate = pipeline(
            "text-generation",
            model=model,
            device=context.model_config["device"],
            tokenizer=tokenizer,
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=False,
            pad_token_id=0,
            return_full_text=False,
        )
        prompt = PromptTemplate(input_variables=["question"], template="{question}")
        formatted = prompt | partial(_apply_template, tokenizer) if context.model_config["chat"] else prompt
        self.chain = formatted | HuggingFacePipeline(pipeline=generate) | StrOutputParser()

    # MLflow would read other annotations as a schema.
    def predict(
        self,
        context: Any,  # noqa: ARG002 (MLflow passes it by this name)
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,  # noqa: ARG002
    ) -> list[Any]:
        answers = []
        for question in model_input["question"]:
            answer = self.chain.invoke({"question": question})
            answers.append({"answer": answer, "tokens": self.counts.tokens})
        return answers


def _apply_template(tokenizer: Any, prompt: PromptValue) -> str:
    turns = [{"role": "user", "content": prompt.to_string()}]
    return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))


def _count_tokens(model: Any) -> threading.local:
    """Wrap `model.generate` to record the number of tokens of each thread's last answer."""
    counts, generate = threading.local(), model.generate

    def counted(*arguments: Any, **settings: Any) -> Any:
        output = generate(*arguments, **settings)
        counts.tokens = output.shape[1] - settings["input_ids"].shape[1]
        return output

    model.generate = counted
    return counts


def main(config: dict[str, Any]) -> None:
    """Register the model in `folder` under `name` in `tracking_uri`."""
    mlflow.set_tracking_uri(config["tracking_uri"])
    mlflow.pyfunc.log_model(
        name=config["name"],
        python_model=__file__,
        artifacts={"model": config["folder"]},
        model_config={name: config[name] for name in ("tokens", "device", "chat")},
        registered_model_name=config["name"],
        pip_requirements=REQUIREMENTS,
    )


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    main(json.loads(sys.argv[1]))
else:
    set_model(PocModelWrapper())
