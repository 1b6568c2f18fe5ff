"""Seeded mutations of a model's folder, as a bad download, a manual edit or an attacker makes them.

`python -m tests.models.mutations FOLDER ENGINE CACHE` answers questions with a model and prints the result.
"""

import contextlib
import dataclasses
import json
import random
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from fledge.core.errors import FledgeError

WEIGHTS = "model.safetensors"
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 7, 10**6, 10**12, 2**64, 0.5, -0.5, 1e300, 1e-300, float("nan"), float("inf")),
    *("", "x", "gelu", "llama", "../x", "x" * 1_000, [], [0], [None], {}, {"x": 1}),
)
FIELDS = (
    *("hidden_size", "head_dim", "num_key_value_heads", "tie_word_embeddings", "is_encoder_decoder", "return_dict"),
    *("quantization_config", "rope_scaling", "num_labels", "id2label", "problem_type", "torch_dtype", "pruned_heads"),
    *("attn_implementation", "auto_map", "add_cross_attention", "output_attentions", "get_text_config", "use_cache"),
)
SETTINGS = ("temperature", "top_p", "top_k", "max_length", "do_sample", "eos_token_id", "suppress_tokens", "num_beams")
STEPS: tuple[dict[str, Any], ...] = (
    {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 1_000},
    {"type": "Replace", "pattern": {"Regex": "x*"}, "content": "ab"},
    {"type": "Prepend", "prepend": "x" * 50},
    {"type": "Lowercase"},
    {"type": "NFKD"},
    {"type": "Precompiled", "precompiled_charsmap": "CAAAAP////////8AAAA="},
    {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False},
    {"type": "FixedLength", "length": 0},
    {"type": "Strip", "content": "e", "start": 2, "stop": 2},
    {"type": "Whitespace"},
    {"type": "Magic"},
)
TEMPLATES = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}",
    "{% for m in messages %}{{ m.content }}",
    "{{ messages[99].content }}",
    "{% for a in range(10**9) %}{% for b in range(10**9) %}x{% endfor %}{% endfor %}",
    "{{ 'x' * 10**10 }}",
    "{{ ''.__class__.__mro__ }}",
    "",
)
Mutation = Callable[[Path, random.Random], str]


def mutate(folder: Path, seed: int) -> str:
    """Change one thing of a model; returns its description."""
    pick = random.Random(seed)
    change = (_config, _config, _generation, _settings, _tokenizer, _tokenizer, _weights, _weights, _template, _bytes)
    return change[seed % len(change)](folder, pick)


def _edit(path: Path, change: Callable[[Any], str]) -> str:
    content = json.loads(path.read_text(encoding="utf-8"))
    words = change(content)
    path.write_text(json.dumps(content), encoding="utf-8")
    return f"{path.name}: {words}"


def _field(content: dict[str, Any], more: tuple[str, ...], pick: random.Random) -> str:
    name = pick.choice([*content, *more])
    value = content.get(name)
    if pick.random() < 0.2 and name in content:
        del content[name]
        return f"no {name}"
    near = [value * 2, value // 2, value + 1, -value] if type(value) is int else []
    content[name] = pick.choice([*near, *pick.sample(ODD, 4)])
    return f"{name} = {json.dumps(content[name])[:40]}"


def _config(folder: Path, pick: random.Random) -> str:
    return _edit(folder / "config.json", lambda content: _field(content, FIELDS, pick))


def _generation(folder: Path, pick: random.Random) -> str:
    return _edit(folder / "generation_config.json", lambda content: _field(content, SETTINGS, pick))


def _settings(folder: Path, pick: random.Random) -> str:
    more = ("add_bos_token", "added_tokens_decoder", "pad_token", "additional_special_tokens", "vocab", "padding_side")
    return _edit(folder / "tokenizer_config.json", lambda content: _field(content, more, pick))


def _tokenizer(folder: Path, pick: random.Random) -> str:
    def change(content: dict[str, Any]) -> str:
        kind = pick.choice(["step", "step", "field", "model", "cut", "swap", "truncation"])
        if kind == "step":
            place = pick.choice(["normalizer", "pre_tokenizer", "decoder"])
            content[place] = pick.choice(STEPS)
            return f"{place} = {content[place]['type']}"
        if kind == "field":
            return _field(content, (), pick)
        if kind == "model":
            rest = {name: value for name, value in content["model"].items() if name not in ("vocab", "merges")}
            words = _field(rest, ("type", "dropout"), pick)
            content["model"] = {**{name: content["model"][name] for name in ("vocab", "merges")}, **rest}
            return f"model {words}"
        if kind == "truncation":
            content["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
            return "truncation to 3"
        vocab = content["model"]["vocab"]
        first, second = pick.sample(list(vocab), 2)
        if kind == "cut":
            del vocab[first]
            return f"no token {first!a}"
        vocab[first], vocab[second] = vocab[second], vocab[first]
        return f"tokens {first!a} and {second!a} exchanged"

    return _edit(folder / "tokenizer.json", change)


def _weights(folder: Path, pick: random.Random) -> str:
    tensors = load_file(folder / WEIGHTS)
    name, other = pick.sample(list(tensors), 2)
    value = tensors[name]
    changes: dict[str, Any] = {
        "dropped": None,
        "turned": np.ascontiguousarray(value.T if value.ndim > 1 else value[::-1]),
        "of 16-bit integers": value.astype(np.int16),
        "of 64 bits": value.astype(np.float64),
        "longer": np.concatenate([value, value]),
        "of zeros": np.zeros_like(value),
        "a thousandfold": (value.astype(np.float32) * 1_000).clip(-65_000, 65_000).astype(value.dtype),
        "with NaN": np.where(np.arange(value.size).reshape(value.shape) == value.size // 2, np.nan, value),
        "with infinity": np.where(np.arange(value.size).reshape(value.shape) == 0, np.inf, value),
        "that of another": tensors[other],
    }
    kind = pick.choice(list(changes))
    changed = changes[kind]
    if changed is None:
        del tensors[name]
    else:
        tensors[name] = changed if kind.startswith("of") else changed.astype(value.dtype)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    return f"{name} {kind}"


def _template(folder: Path, pick: random.Random) -> str:
    template = pick.choice(TEMPLATES)
    if pick.random() < 0.5:
        (folder / "chat_template.jinja").write_text(template)
    else:
        _edit(folder / "tokenizer_config.json", lambda content: content.update(chat_template=template) or "")
    return f"chat template {template[:40]!a}"


def _bytes(folder: Path, pick: random.Random) -> str:
    path = pick.choice(sorted(path for path in folder.iterdir() if path.suffix in (".json", ".safetensors")))
    content = bytearray(path.read_bytes())
    if pick.random() < 0.3:
        path.write_bytes(content[: pick.randrange(len(content))])
        return f"{path.name} truncated"
    for _ in range(3):
        content[pick.randrange(len(content))] = pick.randrange(256)
    path.write_bytes(content)
    return f"{path.name} with three other bytes"


def main() -> None:
    """Answer two prompts and a conversation with a model; print the answers, CPU time and peak memory."""
    from fledge.core.generation import GenerationParams
    from fledge.core.types import Message
    from fledge.engines import selection
    from fledge.engines.engine import PromptInput, generate
    from fledge.engines.settings import EngineSettings
    from fledge.models import snapshot

    folder, engine, cache = sys.argv[1:]
    result: dict[str, Any] = {}
    try:
        model = snapshot.resolve(folder)
        result["digest"] = model.digest
        params = GenerationParams(max_tokens=16, logprobs=True)
        prompts: list[PromptInput] = ["What is machine learning?", "Question: Who was Ada Lovelace?\nAnswer:"]
        prompts.append([Message("user", "What is machine learning?")])
        settings = EngineSettings(engine=engine, cache=cache)  # type: ignore[arg-type]
        with contextlib.closing(selection.start(settings, model)) as started:
            result["texts"] = [dataclasses.astuple(answer)[:3] for answer in generate(started, prompts, params)]
    except FledgeError as error:
        result |= {"refused": error.message, "hint": error.hint}
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    result["cpu_s"] = sum(item.ru_utime + item.ru_stime for item in used)
    result["peak_mb"] = max(item.ru_maxrss for item in used) / 1e3
    sys.stdout.write(json.dumps(result))


if __name__ == "__main__":
    main()
