"""Exact mode gives the greedy tokens of `transformers.generate`, 64 prompts by 64 tokens, for several architectures."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from fledge.core.generation import GenerationParams
from fledge.engines import selection
from fledge.engines.engine import generate
from fledge.engines.settings import EngineName, EngineSettings
from fledge.models import snapshot
from fledge.models.embedded.corpus import load_corpus
from tests.models.tiny_models import CONFIGS, VOCABULARY, write_model

PROMPTS = TOKENS = 64
NEAR_TIE = 1e-3
ENGINES: tuple[EngineName, ...] = ("openvino", "transformers")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["embedded", *CONFIGS])
def test_greedy_tokens_match_transformers(kind: str, tmp_path: Path) -> None:
    source = kind if kind == "embedded" else str(write_model(kind, tmp_path / kind))
    model = snapshot.resolve(source)
    reference = AutoModelForCausalLM.from_pretrained(model.path, dtype=torch.float32)
    prompts = _prompts(kind)
    expected = [_greedy(reference, prompt) for prompt in prompts]
    for engine in ENGINES:
        started = selection.start(EngineSettings(engine=engine, state=str(tmp_path)), model)
        try:
            answers = generate(started, prompts, GenerationParams(max_tokens=TOKENS, ignore_eos=True))
        finally:
            started.close()
        rows = zip(prompts, expected, [list(answer.token_ids) for answer in answers], strict=True)
        others = [_first_difference(reference, *row) for row in rows if row[1] != row[2]]
        assert all(gap < NEAR_TIE for gap, _ in others), (engine, others)
        assert len(others) <= 1, (engine, others)


def _prompts(kind: str) -> list[list[int]]:
    """Return prompts of random tokens; for the embedded model, its questions."""
    rng = random.Random(0)
    if kind != "embedded":
        return [[rng.randrange(1, VOCABULARY) for _ in range(rng.randint(3, 40))] for _ in range(PROMPTS)]
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(snapshot.resolve("embedded").path / "tokenizer.json"))
    questions = [text for entry in load_corpus() for text in entry.held_out]
    return [tokenizer.encode(f"Question: {text}\nAnswer:").ids for text in rng.sample(questions, PROMPTS)]


def _greedy(model: Any, prompt: list[int]) -> list[int]:
    tokens = torch.tensor([prompt])
    output = model.generate(
        tokens, attention_mask=torch.ones_like(tokens), do_sample=False, max_new_tokens=TOKENS, min_new_tokens=TOKENS,
        pad_token_id=0, eos_token_id=None,
    )  # fmt: skip
    return list(output[0, len(prompt) :].tolist())


def _first_difference(model: Any, prompt: list[int], expected: list[int], given: list[int]) -> tuple[float, str]:
    """Return the difference of the logits at the first different token, with a description."""
    place = next(number for number, pair in enumerate(zip(expected, given, strict=True)) if pair[0] != pair[1])
    with torch.no_grad():
        logits = model(torch.tensor([prompt + expected[:place]])).logits[0, -1]
    ours, theirs = float(logits[given[place]]), float(logits[expected[place]])
    return theirs - ours, f"token {place}: {expected[place]} has {theirs:.6f}, {given[place]} has {ours:.6f}"
