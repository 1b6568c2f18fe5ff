import json

import pytest

from fledge.core.generation import GenerationParams
from fledge.core.types import Message
from fledge.engines.engine import Engine, PromptInput, generate
from fledge.models import snapshot
from fledge.models.embedded.corpus import load_corpus
from fledge.models.embedded.templates import TEMPLATES
from fledge.scoring.overlap import token_f1

PARAMS = GenerationParams(max_tokens=96)


def _answers(engine: Engine, prompts: list[PromptInput]) -> list[str]:
    return [completion.text.strip() for completion in generate(engine, prompts, PARAMS)]


def test_the_corpus_is_large_unique_and_well_formed() -> None:
    entries = load_corpus()
    assert len(entries) >= 300
    assert len({entry.id for entry in entries}) == len(entries)
    assert len({entry.topic for entry in entries}) >= 10
    phrasings = [text.casefold() for entry in entries for text in (*entry.phrasings, *entry.held_out)]
    assert len(set(phrasings)) == len(phrasings)
    assert all(len(entry.phrasings) >= 3 and entry.held_out for entry in entries)
    assert all(entry.answer.endswith((".", "!")) and entry.answer.count(". ") <= 1 for entry in entries)


def test_the_snapshot_has_a_model_card_and_training_figures() -> None:
    folder = snapshot.resolve("embedded").path
    assert "memoris" in (folder / "README.md").read_text()
    figures = json.loads((folder / "training.json").read_text())
    assert 2_000_000 <= figures["parameters"] <= 5_000_000


@pytest.mark.slow
@pytest.mark.parametrize("template", ["simple", "turns"])
def test_the_embedded_model_answers_training_questions_exactly(embedded_engine: Engine, template: str) -> None:
    rows = [(text, entry.answer) for entry in load_corpus() for text in entry.phrasings[:1]]
    prompts: list[PromptInput] = [
        [Message("user", text)] if template == "turns" else TEMPLATES[template].replace("{{question}}", text)
        for text, _ in rows
    ]
    answers = _answers(embedded_engine, prompts)
    exact = [answer == reference for answer, (_, reference) in zip(answers, rows, strict=True)]
    assert sum(exact) / len(exact) >= 0.95


@pytest.mark.slow
def test_the_embedded_model_answers_held_out_phrasings(embedded_engine: Engine) -> None:
    rows = [(text, entry.answer) for entry in load_corpus() for text in entry.held_out[:1]]
    best = 0.0
    for template in TEMPLATES.values():
        answers = _answers(embedded_engine, [template.replace("{{question}}", text) for text, _ in rows])
        scores = [token_f1(answer, reference) for answer, (_, reference) in zip(answers, rows, strict=True)]
        best = max(best, sum(scores) / len(scores))
    assert best >= 0.5
