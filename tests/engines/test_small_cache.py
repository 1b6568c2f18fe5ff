"""A KV cache that holds only some of the answers: the others wait or are put back, and none fails."""

import random
import threading
import time
from collections import Counter
from contextlib import closing

import pytest

from fledge.core.generation import GenerationParams
from fledge.engines import selection
from fledge.engines.settings import EngineSettings
from fledge.models import snapshot

pytestmark = pytest.mark.slow

SECONDS = 15.0
CLIENTS = 64
TOKENS = 400
FULL = GenerationParams(max_tokens=TOKENS, ignore_eos=True, temperature=1.0)


def test_answers_finish_while_others_are_cancelled() -> None:
    settings = EngineSettings(engine="openvino", device="cpu", cache_gb=0.001)
    outcomes: Counter[str] = Counter()
    with closing(selection.start(settings, snapshot.resolve("embedded"))) as engine:
        end = time.monotonic() + SECONDS

        def ask(number: int) -> None:
            draw = random.Random(number)
            while time.monotonic() < end:
                prompt = f"Number {number} is {'word ' * draw.randint(1, 60)}"
                stream = engine.submit(prompt, FULL.for_sample(draw.randrange(10**6)))
                leaves_after = draw.choice([draw.randint(1, 300), TOKENS + 1])
                count = 0
                for chunk in stream:
                    count += len(chunk.token_ids)
                    if count >= leaves_after and not stream.cancelled:
                        stream.cancel()
                    if chunk.finish_reason == "length":
                        outcomes["whole" if count == TOKENS else "short"] += 1
                    elif chunk.finish_reason:
                        outcomes[chunk.finish_reason] += 1

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert outcomes.keys() == {"whole", "cancelled"}
