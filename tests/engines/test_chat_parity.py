"""A real chat model in exact mode gives the greedy answers of transformers, through its chat template.

One forward pass over a prompt and its answer is faster than `generate`: each token must be the most likely one. The
second test runs `generate`.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from fledge.core.generation import GenerationParams
from fledge.core.types import Message
from fledge.engines import selection
from fledge.engines.engine import generate
from fledge.engines.settings import EngineSettings
from fledge.engines.stream import Completion
from fledge.models.embedded.corpus import load_corpus
from fledge.models.snapshot import Snapshot
from tests.engines.test_parity import NEAR_TIE

TOKENS = 64


def ask(model: Snapshot, count: int, folder: Path) -> tuple[list[list[int]], list[Completion]]:
    """Return the tokens of `count` questions in transformers' chat template, and fledge's answers."""
    questions = [entry.held_out[0] for entry in load_corpus()][:count]
    tokenizer = AutoTokenizer.from_pretrained(model.path)
    templated = [
        tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True)["input_ids"]
        for text in questions
    ]
    engine = selection.start(EngineSettings(engine="openvino", state=str(folder)), model)
    try:
        answers = generate(engine, [[Message("user", text)] for text in questions], GenerationParams(max_tokens=TOKENS))
    finally:
        engine.close()
    assert [answer.usage.prompt_tokens for answer in answers] == [len(prompt) for prompt in templated]
    return templated, answers


@pytest.mark.soak
@pytest.mark.timeout(1200)  # the model is exported first
def test_each_token_is_the_most_likely(smollm2: Snapshot, tmp_path: Path) -> None:
    templated, answers = ask(smollm2, 16, tmp_path)
    reference = AutoModelForCausalLM.from_pretrained(smollm2.path, dtype=torch.float32)
    gaps = []
    for prompt, answer in zip(templated, answers, strict=True):
        given = _without_end(list(answer.token_ids), smollm2)
        given += smollm2.end_tokens if answer.finish_reason == "stop" else ()
        with torch.no_grad():
            logits = reference(torch.tensor([prompt + given[:-1]])).logits[0, len(prompt) - 1 :]
        ours = logits[torch.arange(len(given)), torch.tensor(given)]
        gaps.append(float((logits.max(dim=-1).values - ours).max()))
    assert max(gaps) < NEAR_TIE
    assert sum(gap > 0 for gap in gaps) <= 1


@pytest.mark.soak
def test_answers_match_generate(smollm2: Snapshot, tmp_path: Path) -> None:
    templated, answers = ask(smollm2, 64, tmp_path)
    reference = AutoModelForCausalLM.from_pretrained(smollm2.path, dtype=torch.float32)
    same = [
        _without_end(_generated(reference, prompt), smollm2) == _without_end(list(answer.token_ids), smollm2)
        for prompt, answer in zip(templated, answers, strict=True)
    ]
    assert sum(same) >= 63, same


def _generated(model: Any, prompt: list[int]) -> list[int]:
    tokens = torch.tensor([prompt])
    output = model.generate(tokens, attention_mask=torch.ones_like(tokens), do_sample=False, max_new_tokens=TOKENS)
    return [int(token) for token in output[0, len(prompt) :]]


def _without_end(tokens: list[int], model: Snapshot) -> list[int]:
    return tokens[:-1] if tokens and tokens[-1] in model.end_tokens else tokens
