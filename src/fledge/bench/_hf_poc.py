"""The peer of `bench experiment`: `python -m fledge.bench._hf_poc JSON`.

It asks one question after another through LangChain's `HuggingFacePipeline`, each with a nested MLflow run, as scripts
and notebooks do. Writes one line of JSON to stdout.
"""

import json
import sys
import time
import warnings
from functools import partial
from typing import Any

import mlflow
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompt_values import PromptValue
from langchain_core.prompts import PromptTemplate
from langchain_huggingface import HuggingFacePipeline
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline
from transformers.utils import logging

from fledge.tracking._mlflow_connection import connect


def main(config: dict[str, Any]) -> None:
    """Ask `questions` with `templates`, `tokens` new tokens each, and record them in `tracking_uri`.

    With `chat`, each prompt is a user's turn in the model's chat template.
    """
    model = AutoModelForCausalLM.from_pretrained(config["model"], local_files_only=True, use_safetensors=True)
    tokenizer = AutoTokenizer.from_pretrained(config["model"], local_files_only=True)
    tokens = config["tokens"]
    generate = pipeline(
        "text-generation",
        model=model,
        tokenizer=tokenizer,
        max_new_tokens=tokens,
        min_new_tokens=tokens,
        do_sample=False,
        pad_token_id=0,
        return_full_text=False,
    )
    llm = HuggingFacePipeline(pipeline=generate)
    llm.invoke("warm up")
    connect(config["tracking_uri"])
    mlflow.set_experiment("bench")
    latencies = []
    started = time.perf_counter()
    with mlflow.start_run():
        for name, template in config["templates"].items():
            prompt = PromptTemplate.from_template(template, template_format="mustache")
            formatted = prompt | partial(_apply_template, tokenizer) if config["chat"] else prompt
            chain = formatted | llm | StrOutputParser()
            for question in config["questions"]:
                with mlflow.start_run(run_name=name, nested=True):
                    mlflow.log_params({"template": name, "question": question[:250]})
                    sent = time.perf_counter()
                    answer = chain.invoke({"question": question})
                    latencies.append(time.perf_counter() - sent)
                    mlflow.log_metrics(
                        {"processing_time": latencies[-1], "response_length": len(answer.split()), "success": 1.0}
                    )
    seconds = time.perf_counter() - started
    sys.stdout.write(json.dumps({"seconds": seconds, "latencies": latencies, "ttfts": []}) + "\n")


def _apply_template(tokenizer: Any, prompt: PromptValue) -> str:
    turns = [{"role": "user", "content": prompt.to_string()}]
    return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    main(json.loads(sys.argv[1]))
