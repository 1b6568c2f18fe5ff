"""Inconsistent models: the one of `broken_models.write_model` with one change.

`CASES` are refused with these messages; `UNUSUAL` are accepted.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from tests.models.broken_models import TOKENIZER, Break, config, edit, text

WEIGHTS = "model.safetensors"
LONG = "x" * 100_000
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
MANY = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 1_000}
CHARSMAP = "BAAAAAAAAABhAA=="  # a trie of four bytes, then "a"


def weights(change: Callable[[dict[str, Any]], object]) -> Break:
    def apply(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, folder / WEIGHTS)

    return apply


def drop(name: str) -> Break:
    return weights(lambda tensors: tensors.pop(name))


def add(name: str, value: Any) -> Break:
    return weights(lambda tensors: tensors.update({name: value}))


def set_last(name: str, value: float, kind: type = np.float32) -> Break:
    """Set the last number of a tensor, with all weights converted to `kind`."""

    def change(tensors: dict[str, Any]) -> None:
        for key in tensors:
            tensors[key] = tensors[key].astype(kind)
        tensors[name].flat[-1] = value

    return weights(change)


def to_bfloat16(value: int) -> Break:
    """Convert the weights to bfloat16, which numpy lacks, and set the bits of one number."""

    def apply(folder: Path) -> None:
        raw = (folder / WEIGHTS).read_bytes()
        size = int.from_bytes(raw[:8], "little")
        header, data = json.loads(raw[8 : 8 + size]), bytearray()
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            start, end = entry["data_offsets"]
            numbers = np.frombuffer(raw[8 + size + start : 8 + size + end], np.uint32)
            bits = (numbers >> 16).astype(np.uint16)
            if name == "transformer.ln_f.bias":
                bits[-1] = value
            header[name] = {**entry, "dtype": "BF16", "data_offsets": [len(data), len(data) + bits.nbytes]}
            data += bits.tobytes()
        text_ = json.dumps(header).encode()
        (folder / WEIGHTS).write_bytes(len(text_).to_bytes(8, "little") + text_ + data)

    return apply


def strip_prefix(tensors: dict[str, Any]) -> None:
    for name in list(tensors):
        tensors[name.removeprefix("transformer.")] = tensors.pop(name)


def tokenizer(**changes: Any) -> Break:
    return edit("tokenizer.json", **changes)


def model(**changes: Any) -> Break:
    return tokenizer(model={**TOKENIZER["model"], **changes})


def add_token(**changes: Any) -> Break:
    return tokenizer(added_tokens=[*TOKENIZER["added_tokens"], {**TOKENIZER["added_tokens"][0], **changes}])


def steps(kind: str, *items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", kind: list(items)}


def cut_vocabulary(folder: Path) -> None:
    """Remove the last 70 of 140 tokens from the vocabulary."""
    words = {f"w{number}": number for number in range(40, 140)}
    vocab = {**TOKENIZER["model"]["vocab"], **words}
    config(vocab_size=140)(folder)
    model(vocab={word: number for word, number in vocab.items() if number < 70})(folder)
    weights(lambda tensors: tensors.update({"transformer.wte.weight": np.zeros((140, 8), np.float32)}))(folder)


def remove(name: str) -> Break:
    return lambda folder: (folder / name).unlink()


BEYOND = "which is outside the vocabulary of 40 tokens"
EXCESS = "at most 32 are accepted"

CASES: dict[str, tuple[Break, str]] = {
    # Tensors
    "no embedding": (
        drop("transformer.wte.weight"),
        "lacks the tensor 'transformer.wte.weight', which config.json implies",
    ),
    "no bias": (drop("transformer.h.0.mlp.c_fc.bias"), "model.safetensors lacks the tensor"),
    "more layers in the config": (
        config(n_layer=2),
        "lacks the tensor 'transformer.h.1.attn.c_attn.weight' and 11 more",
    ),
    "fewer layers in the config": (
        lambda folder: [
            add(f"transformer.h.1.{name}", value)(folder)
            for name, value in (("ln_1.weight", np.zeros(8, np.float32)), ("ln_1.bias", np.zeros(8, np.float32)))
        ],
        "has the tensor 'transformer.h.1.ln_1.bias' and 1 more, which config.json does not imply",
    ),
    "an extra tensor": (
        add("other", np.zeros(3, np.float32)),
        "the tensor 'other', which config.json does not",
    ),
    "a mask of a layer that is not there": (
        add("transformer.h.7.attn.bias", np.ones((1, 1, 2, 2), np.uint8)),
        "'transformer.h.7.attn.bias', which config.json does not imply",
    ),
    "a wider inner layer": (config(n_inner=33), "of shape [32]; config.json implies [33]"),
    "fewer positions": (config(n_positions=8), "'transformer.wpe.weight' of shape [16, 8]; config.json implies [8, 8]"),
    "a transposed matrix": (
        add("transformer.wpe.weight", np.zeros((8, 16), np.float32)),
        "'transformer.wpe.weight' of shape [8, 16]",
    ),
    "no head where it is not the embedding": (config(tie_word_embeddings=False), "lacks the tensor 'lm_head.weight'"),
    "one name under two": (config(hidden_size=16), "'hidden_size' 16, but n_embd, which means the same, is 8"),
    "a size of null": (config(n_layer=None), "'n_layer' null, which is not an integer"),
    "weights of integers": (
        add("transformer.wpe.weight", np.zeros((16, 8), np.int16)),
        "'transformer.wpe.weight' of type I16; weights are F16, BF16, F32, F64",
    ),
    "weights of bytes": (add("transformer.wpe.weight", np.zeros((16, 8), np.uint8)), "of type U8"),
    # Numbers
    "NaN": (set_last("transformer.ln_f.bias", np.nan), "the tensor 'transformer.ln_f.bias' contains NaN at position 7"),
    "NaN with its sign": (set_last("transformer.ln_f.bias", -np.nan), "contains NaN at position"),
    "infinity": (
        set_last("transformer.wte.weight", np.inf),
        "the tensor 'transformer.wte.weight' contains infinity at position 319",
    ),
    "negative infinity": (set_last("transformer.wte.weight", -np.inf), "contains infinity at position"),
    "infinity in 16 bits": (set_last("transformer.wte.weight", -np.inf, np.float16), "contains infinity at position"),
    "NaN in 16 bits": (set_last("transformer.wte.weight", np.nan, np.float16), "contains NaN at position"),
    "NaN in 64 bits": (set_last("transformer.wte.weight", np.nan, np.float64), "contains NaN at position"),
    "infinity in bfloat16": (to_bfloat16(0xFF80), "the tensor 'transformer.ln_f.bias' contains infinity at position 7"),
    "NaN in bfloat16": (to_bfloat16(0x7FC0), "contains NaN at position"),
    # Types
    "another type": (
        config(model_type="llama"),
        "'model_type' \"llama\", but its architecture is GPT2LMHeadModel",
    ),
    "an unknown type": (config(model_type="gpt9"), "'model_type' \"gpt9\""),
    "no type": (config(model_type=None), "'model_type' null"),
    "a type that is a number": (config(model_type=2), "'model_type' 2"),
    "the type of another unknown one": (config(architectures=["GPTNeoForCausalLM"]), "'model_type' \"gpt2\""),
    "quantised": (
        config(quantization_config={"quant_method": "gptq", "bits": 4}),
        "'quantization_config' \"gptq\", but fledge does not load quantised checkpoints",
    ),
    # Values of the config
    "an epsilon of NaN": (
        text("config.json", '{"architectures": ["GPT2LMHeadModel"], "layer_norm_epsilon": NaN}'),
        "config.json has 'layer_norm_epsilon' NaN, which is not a finite number",
    ),
    "an epsilon beyond all numbers": (text("config.json", '{"x": [1, {"y": 1e999}]}'), "'x.1.y' 1e999, which is not"),
    "NaN in another file": (text("training.json", '{"loss": -Infinity}'), "training.json has 'loss' -Infinity"),
    "two values for one": (text("config.json", '{"n_head": 1, "n_head": 2}'), "has 'n_head' twice"),
    "an epsilon of 0": (config(layer_norm_epsilon=0), "'layer_norm_epsilon' 0, which is not a number above 0"),
    "a negative epsilon": (config(layer_norm_epsilon=-1e-5), "'layer_norm_epsilon' -1e-05"),
    "an epsilon as text": (config(layer_norm_epsilon="1e-5"), "'layer_norm_epsilon' \"1e-5\""),
    "dropout of everything": (config(attn_pdrop=1), "'attn_pdrop' 1"),
    "heads that do not divide": (config(n_head=3), "'n_head' 3, which does not divide n_embd (8)"),
    "heads for keys that do not divide": (
        config(num_key_value_heads=3),
        "'num_key_value_heads' 3, which does not divide",
    ),
    "an activation that is not there": (config(activation_function="gelu_old"), "'activation_function' \"gelu_old\""),
    "an activation that is a number": (config(activation_function=1), "'activation_function' 1"),
    "a dtype that is not there": (config(dtype="float99"), "'dtype' \"float99\""),
    "an old dtype that is not there": (config(torch_dtype="int8"), "'torch_dtype' \"int8\""),
    "a switch that is a text": (config(tie_word_embeddings="no"), "'tie_word_embeddings' \"no\""),
    "an encoder before it": (config(is_encoder_decoder=True), "'is_encoder_decoder' true"),
    "billions of labels": (config(num_labels=10**10), "'num_labels' 10000000000"),
    "a rope of 0": (config(rope_theta=0), "'rope_theta' 0"),
    "a rope of no kind": (config(rope_scaling={"type": "magic", "factor": 2.0}), "'rope_scaling.rope_type' \"magic\""),
    "a rope without its factor": (config(rope_scaling={"type": "linear"}), "but no factor"),
    "a rope of a negative factor": (config(rope_scaling={"type": "linear", "factor": -1}), "'rope_scaling.factor' -1"),
    "an end beyond the vocabulary": (
        config(eos_token_id=40),
        "'eos_token_id' 40, which is outside the vocabulary",
    ),
    "an end that is a text": (config(eos_token_id=[None]), "'eos_token_id' [null]"),
    "an end that is true": (
        edit("generation_config.json", eos_token_id=True),
        "generation_config.json has 'eos_token_id'",
    ),
    "a temperature that is a text": (edit("generation_config.json", temperature="hot"), "'temperature' \"hot\""),
    "a probability above 1": (edit("generation_config.json", top_p=1.5), "'top_p' 1.5"),
    "a length that is a list": (edit("generation_config.json", max_length=[1]), "'max_length' [1]"),
    "sampling that is a number": (edit("generation_config.json", do_sample=1), "'do_sample' 1"),
    # Tokenizer
    "no tokenizer": (
        remove("tokenizer.json"),
        "has no tokenizer: neither tokenizer.json nor vocab.json and merges.txt",
    ),
    "an empty tokenizer": (text("tokenizer.json", "{}"), "tokenizer.json has 'model' null"),
    "a tokenizer that is a list": (text("tokenizer.json", "[]"), "tokenizer.json is not a JSON object"),
    "a tokenizer of no kind": (model(type="Magic"), "'model.type' \"Magic\", which is not one of BPE"),
    "a tokenizer of another kind": (model(type="Unigram"), "tokenizer.json cannot be loaded"),
    "a vocabulary that is a text": (model(vocab="a b c"), "'model.vocab' \"a b c\""),
    "merges of unknown tokens": (
        model(merges=["a zz"]),
        "tokenizer.json cannot be loaded: Token `zz` out of vocabulary",
    ),
    "a cut vocabulary": (cut_vocabulary, "tokenizer.json has 70 tokens, but config.json has 'vocab_size' 140"),
    "a token beyond the vocabulary": (
        model(vocab={**TOKENIZER["model"]["vocab"], "aa": 40}),
        f"'model.vocab.aa' 40, {BEYOND}",
    ),
    "an added token beyond": (add_token(content="<|x|>", id=99), f"'added_tokens.1.id' 99, {BEYOND}"),
    "two tokens with one id": (model(vocab={**TOKENIZER["model"]["vocab"], "aa": 5}), "two tokens with the same id"),
    "a token of a million letters": (
        model(vocab={**{k: v for k, v in TOKENIZER["model"]["vocab"].items() if v}, LONG: 0}),
        "of 100,000 characters; at most 4,096 are accepted",
    ),
    "dropout of merges": (model(dropout=0.1), "'model.dropout' 0.1, which makes tokenization random"),
    "long replacements, chained": (tokenizer(normalizer=steps("normalizers", *[MANY] * 4)), EXCESS),
    "one long replacement": (
        tokenizer(normalizer=MANY),
        f"'normalizer' and 'pre_tokenizer' that may turn one character into 1,000; {EXCESS}",
    ),
    "short replacements, chained": (
        tokenizer(normalizer=steps("normalizers", *[{**MANY, "content": "aa"}] * 6)),
        f"into 64; {EXCESS}",
    ),
    "a long replacement by a regular expression": (
        tokenizer(normalizer={**MANY, "pattern": {"Regex": "[^a]{0,}"}, "content": "b" * 40}),
        f"into 41; {EXCESS}",
    ),
    "sequences in sequences": (
        tokenizer(normalizer=steps("normalizers", steps("normalizers", MANY), steps("normalizers", MANY))),
        EXCESS,
    ),
    "many steps": (
        tokenizer(normalizer=steps("normalizers", *[{"type": "NFC"}] * 40)),
        "'normalizer' with more than 32 steps",
    ),
    "bytes of bytes of bytes": (tokenizer(pre_tokenizer=steps("pretokenizers", *[BYTE_LEVEL] * 3)), EXCESS),
    "a prefix without end": (tokenizer(normalizer={"type": "Prepend", "prepend": LONG}), "'normalizer.prepend' \"xxx"),
    "a charsmap that writes much": (
        tokenizer(normalizer={"type": "Precompiled", "precompiled_charsmap": "BAAAAAAAAABh" + "YWFh" * 30}),
        "writes more than 64 bytes for one character",
    ),
    "a charsmap that is a number": (
        tokenizer(normalizer={"type": "Precompiled", "precompiled_charsmap": 5}),
        "'normalizer.precompiled_charsmap' 5, which is not base64",
    ),
    "a charsmap with a broken trie": (
        tokenizer(normalizer={"type": "Precompiled", "precompiled_charsmap": CHARSMAP}),
        "cannot be loaded",
    ),
    "a decoder that writes much": (
        tokenizer(decoder=steps("decoders", MANY)),
        f"a 'decoder' that may turn one character into 1,000; {EXCESS}",
    ),
    "a regular expression without end": (
        tokenizer(pre_tokenizer={"type": "Split", "pattern": {"Regex": LONG}, "behavior": "Isolated", "invert": False}),
        "which has more than 2,000 characters",
    ),
    "a regular expression that is none": (
        tokenizer(pre_tokenizer={"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": False}),
        "cannot be loaded: Oniguruma error",
    ),
    "pieces of no length": (
        tokenizer(pre_tokenizer={"type": "FixedLength", "length": 0}),
        "cannot be loaded: chunk size",
    ),
    "a step that is a list": (tokenizer(normalizer=[]), "'normalizer' [], which is not an object"),
    "a template that drops the text": (
        tokenizer(post_processor={"type": "TemplateProcessing", "single": [], "pair": [], "special_tokens": {}}),
        "'post_processor.single' [], which is not the text ($A)",
    ),
    "a template of a token beyond": (
        tokenizer(
            post_processor={
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "x", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [],
                "special_tokens": {"x": {"id": "x", "ids": [99], "tokens": ["x"]}},
            }
        ),
        f"'post_processor' 99, {BEYOND}",
    ),
    "an added token of 100,000 characters": (add_token(content=LONG), "'added_tokens.1' of 100,000 characters"),
    "an end of 100,000 characters": (
        edit("tokenizer_config.json", eos_token=LONG),
        "tokenizer_config.json has 'eos_token' of 100,000 characters",
    ),
    "an end of 100,000 characters as an object": (
        edit("tokenizer_config.json", eos_token={"content": LONG}),
        "'eos_token' of",
    ),
    "an end of 100,000 characters in the map": (
        edit("special_tokens_map.json", eos_token=LONG),
        "special_tokens_map.json has 'eos_token' of 100,000 characters",
    ),
    "another token of 100,000 characters": (
        edit("tokenizer_config.json", additional_special_tokens=["a", LONG]),
        "'additional_special_tokens.1' of 100,000 characters",
    ),
    "a decoder of 100,000 letters": (
        edit("tokenizer_config.json", added_tokens_decoder={"3": {"content": LONG}}),
        "'added_tokens_decoder.3' of 100,000 characters",
    ),
    "old tokens of 100,000 characters": (edit("added_tokens.json", **{LONG: 3}), "added_tokens.json has 'xxxxx"),
    "an end that is a list": (edit("tokenizer_config.json", eos_token=["a"]), "'eos_token' [\"a\"]"),
    "a class that is a number": (
        edit("tokenizer_config.json", tokenizer_class=5),
        "'tokenizer_class' 5, which is not a string",
    ),
    "a length that is a text": (edit("tokenizer_config.json", model_max_length="long"), "'model_max_length' \"long\""),
    "a tokenizer in the config": (
        edit("tokenizer_config.json", vocab={"a": 0}),
        "'vocab' {\"a\": 0}, which would override tokenizer.json",
    ),
    "settings that are a list": (text("tokenizer_config.json", "[]"), "tokenizer_config.json is not a JSON object"),
    # Chat template
    "a template that is a number": (edit("tokenizer_config.json", chat_template=5), "'chat_template' 5"),
    "a template that is broken": (
        edit("tokenizer_config.json", chat_template="{% for m in messages %}{{ m }"),
        "tokenizer_config.json: line 1 of the chat template is invalid",
    ),
    "a template file that is broken": (text("chat_template.jinja", "{% if %}"), "chat_template.jinja: line 1"),
    "a template without end": (text("chat_template.jinja", "{{ " + "(" * 50_000), "chat_template.jinja"),
}

UNUSUAL: dict[str, Break] = {
    "masks of old": (lambda folder: [
        add("transformer.h.0.attn.bias", np.ones((1, 1, 16, 16), np.uint8))(folder),
        add("transformer.h.0.attn.masked_bias", np.array(-1e4, np.float32))(folder),
    ]),
    "names without the prefix": weights(strip_prefix),
    "a head and an embedding": add("lm_head.weight", np.zeros((40, 8), np.float32)),
    "a head for the embedding": lambda folder: [
        add("lm_head.weight", np.zeros((40, 8), np.float32))(folder),
        drop("transformer.wte.weight")(folder),
    ],
    "weights of 64 bits": set_last("transformer.wte.weight", 1.0, np.float64),
    "weights of 16 bits": set_last("transformer.wte.weight", 65504, np.float16),
    "weights of bfloat16": to_bfloat16(0xFF7F),
    "the largest number": set_last("transformer.wte.weight", -3.4e38),
    "sizes by their other names": config(hidden_size=8, num_hidden_layers=1, max_position_embeddings=16),
    "an inner layer of null": config(n_inner=None),
    "a loss of NaN in a log": text("trainer_state.json", '{"loss": NaN}'),
    "padding and truncation": tokenizer(
        truncation={"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
        padding={
            "strategy": {"Fixed": 512}, "direction": "Right", "pad_to_multiple_of": None,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "x",
        },
    ),
    "a padding token without room": add_token(content="<pad>", id=40),
    "a byte-level alphabet": tokenizer(pre_tokenizer=BYTE_LEVEL),
    "usual replacements": tokenizer(
        normalizer=steps(
            "normalizers",
            {"type": "NFKC"},
            {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"},
            {"type": "Replace", "pattern": {"String": "``"}, "content": '"'},
        )
    ),
    "a regular expression that is slow for some": tokenizer(
        pre_tokenizer={"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    ),
    "several chat templates": edit(
        "tokenizer_config.json", chat_template=[{"name": "default", "template": "{{ messages }}"}]
    ),
    "an end token as an object": edit("tokenizer_config.json", eos_token={"content": "<|endoftext|>", "special": True}),
}  # fmt: skip
