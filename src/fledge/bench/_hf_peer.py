"""Parts of benchmarks that need transformers: `python -m fledge.bench._hf_peer peer|model|around|probe JSON`.

`peer` is what a user would write without fledge: one padded batch with `transformers.generate`. `model` writes a
model of DialoGPT-small's architecture with random weights. `around` finds the tokens that a chat template puts around
a message, `probe` measures the machine's limits.
"""

import itertools
import json
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GPT2Config, GPT2LMHeadModel
from transformers.generation.stopping_criteria import StoppingCriteria, StoppingCriteriaList
from transformers.utils import logging

from fledge.bench.rounds import RoundPlan

VOCABULARY = 50257


def peer(config: dict[str, Any]) -> None:
    """Run the rounds and write a line of JSON for each to stdout."""
    plan, device = RoundPlan(**config["plan"]), config["device"]
    model = AutoModelForCausalLM.from_pretrained(
        config["model"], dtype=torch.float32 if device == "cpu" else "auto", local_files_only=True, use_safetensors=True
    )
    model.generation_config = GenerationConfig()
    model.eval().to(device)
    _generate(model, torch.tensor([[1, 2, 3]], device=device), 4)  # to warm up
    for load, prompts in plan.rounds():
        times = _generate(model, torch.tensor(prompts, device=device), plan.tokens)
        sys.stdout.write(json.dumps({"load": load, "times": [times] * load}) + "\n")
        sys.stdout.flush()


class _Clock(StoppingCriteria):  # type: ignore[misc]
    """Records the time of each step of a batch, and never stops it."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.times: list[float] = []

    def __call__(self, input_ids: torch.Tensor, _scores: Any, **_: Any) -> torch.Tensor:
        ended = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        ended.any().item()  # synchronizes a GPU
        self.times.append(time.perf_counter() - self.started)
        return ended


@torch.inference_mode()
def _generate(model: Any, tokens: torch.Tensor, count: int) -> list[float]:
    clock = _Clock()
    model.generate(
        tokens,
        attention_mask=torch.ones_like(tokens),
        max_new_tokens=count,
        do_sample=False,
        pad_token_id=0,
        stopping_criteria=StoppingCriteriaList([clock]),
    )
    return clock.times


def model(config: dict[str, Any]) -> None:
    """Write a model with 124 M random weights, and a tokenizer of single bytes with a vocabulary of GPT-2's size."""
    folder = Path(config["folder"])
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(bos_token_id=0, eos_token_id=0)).save_pretrained(folder)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {word: place for place, word in enumerate([*letters, *(f"w{n}" for n in range(VOCABULARY - 256))])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}', encoding="utf-8")


def around(config: dict[str, Any]) -> None:
    """Write the common start and end of two conversations of one word each."""
    tokenizer = AutoTokenizer.from_pretrained(config["model"], local_files_only=True)
    one, other = [], []
    if tokenizer.chat_template:
        one, other = (
            tokenizer.apply_chat_template([{"role": "user", "content": word}], add_generation_prompt=True)["input_ids"]
            for word in ("a", "7")
        )
    found = {"before": _common_prefix(one, other), "after": _common_prefix(one[::-1], other[::-1])[::-1]}
    sys.stdout.write(json.dumps(found) + "\n")


def _common_prefix(one: list[int], other: list[int]) -> list[int]:
    pairs = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return [token for token, _ in pairs]


def probe(config: dict[str, Any]) -> None:
    """Measure the machine: memory bandwidth in bytes/s, or operations/s of a matrix product of one dtype."""
    device, what = config["device"], config["what"]
    if what == "memory":
        data = torch.ones(2**27, device=device)  # 512 MiB, far more than any cache
        done = data.numel() * 4 / _time_best(data.sum, device)
    else:
        square = torch.ones(2048, 2048, dtype=getattr(torch, what), device=device)
        done = 2 * 2048**3 / _time_best(partial(torch.mm, square, square), device)
    sys.stdout.write(json.dumps({"per_s": done}) + "\n")


def _time_best(work: Callable[[], torch.Tensor], device: str) -> float:
    """Return the seconds of the fastest of eight runs."""
    seconds = []
    for _ in range(8):
        started = time.perf_counter()
        work()
        if device != "cpu":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    {"peer": peer, "model": model, "around": around, "probe": probe}[sys.argv[1]](json.loads(sys.argv[2]))
