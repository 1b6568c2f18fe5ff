"""Long prompts are computed in parts, between which short ones are answered."""

import threading
import time
from contextlib import closing

import pytest

from fledge.core.generation import GenerationParams
from fledge.engines import selection
from fledge.engines.engine import generate
from fledge.engines.prefill import CHUNK_TOKENS, SHARED_CHUNK_TOKENS, PrefillQueue
from fledge.engines.settings import EngineSettings
from fledge.models.snapshot import Snapshot

GREEDY = GenerationParams(max_tokens=12, ignore_eos=True)


def _run(queue: PrefillQueue, *, alone: bool = True) -> list[tuple[str, int]]:
    """Compute all parts and return them: whose, and up to which token."""
    parts = []
    while (chosen := queue.choose(alone=alone)) is not None:
        parts.append((chosen.answer, chosen.end))
        chosen.done = chosen.end
        if chosen.end == chosen.tokens:
            queue.remove(chosen.answer)
    return parts


def test_prompt_is_computed_in_parts_up_to_its_end() -> None:
    queue = PrefillQueue()
    queue.add("a", 2 * CHUNK_TOKENS + 1)
    assert _run(queue) == [("a", CHUNK_TOKENS), ("a", 2 * CHUNK_TOKENS), ("a", 2 * CHUNK_TOKENS + 1)]
    assert queue.items == []


def test_parts_are_shorter_beside_other_answers() -> None:
    queue = PrefillQueue()
    queue.add("a", 600)
    assert [end for _, end in _run(queue, alone=False)] == [*range(SHARED_CHUNK_TOKENS, 600, SHARED_CHUNK_TOKENS), 600]


def test_the_shorter_rest_comes_first_and_nobody_waits_for_ever() -> None:
    queue = PrefillQueue()
    queue.add("long", 20 * CHUNK_TOKENS)
    queue.add("short", 2 * CHUNK_TOKENS)
    assert [name for name, _ in _run(queue)][:2] == ["short", "short"]

    queue.add("long", 20 * CHUNK_TOKENS)
    order = []
    for number in range(40):  # one after the other
        queue.add(f"short {number}", 2 * CHUNK_TOKENS)
        chosen = queue.choose(alone=True)
        assert chosen is not None
        order.append(chosen.answer)
        queue.remove(chosen.answer)
        if chosen.answer == "long":
            break
    assert 10 < order.index("long") <= 20


def test_removed_prompt_has_no_further_parts() -> None:
    queue = PrefillQueue()
    queue.add("a", 1000)
    queue.add("b", 2000)
    assert queue.remove("a") is not None
    assert queue.remove("a") is None
    assert {name for name, _ in _run(queue)} == {"b"}


@pytest.mark.slow
def test_short_prompt_is_answered_before_a_long_one_whose_answer_is_the_same(smollm2: Snapshot) -> None:
    words = "The quick brown fox jumps over the lazy dog near the river bank at noon. "
    text = words * 200  # 3,000 tokens
    settings = EngineSettings(engine="transformers", device="cpu")
    with closing(selection.start(settings, smollm2)) as reference:
        expected = generate(reference, [text], GREEDY)[0]
    with closing(selection.start(EngineSettings(engine="openvino", device="cpu"), smollm2)) as engine:
        moments: dict[str, float] = {}

        def ask(name: str, prompt: str) -> None:
            answer = engine.submit(prompt, GREEDY).result()
            moments[name] = time.monotonic()
            if name == "long":
                assert answer.token_ids == expected.token_ids

        asking = threading.Thread(target=ask, args=("long", text))
        asking.start()
        time.sleep(0.3)
        ask("short", "Hello")
        asking.join()
        assert moments["short"] < moments["long"]
        cancelled = engine.submit(text + "again", GREEDY)
        cancelled.cancel()
        assert cancelled.result().finish_reason == "cancelled"
        assert generate(engine, ["Hello"], GREEDY)[0].completion_tokens == 12
