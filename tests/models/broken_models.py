"""Model folders that must not be loaded; the payloads are inert.

A payload that is unpickled or imported creates `executed` next to the folder, and does nothing else.
"""

import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from fledge.core.errors import FledgeError, InputError
from fledge.models.config_files import MAX_BYTES

Break = Callable[[Path], Any]
CONFIG = {
    "architectures": ["GPT2LMHeadModel"],
    "model_type": "gpt2",
    "vocab_size": 40,
    "n_embd": 8,
    "n_layer": 1,
    "n_head": 2,
    "n_positions": 16,
    "eos_token_id": 0,
}


class Payload:
    """Create the folder `marker` when unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


LETTERS = "<|endoftext|>", *" .,", *"abcdefghijklmnopqrstuvwxyz", *"0123456789"
TOKENIZER: dict[str, Any] = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [
        {
            "id": 0,
            "content": "<|endoftext|>",
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
    ],
    "normalizer": None,
    "pre_tokenizer": None,
    "post_processor": None,
    "decoder": {"type": "Fuse"},
    "model": {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": {letter: number for number, letter in enumerate(LETTERS)},
        "merges": [],
    },
}
PARAMETERS = 1336


def write_model(folder: Path) -> Path:
    """Write a small valid model; returns `folder`."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    (folder / "tokenizer_config.json").write_text("{}")
    save_file(tensors(), folder / "model.safetensors")
    return folder


def add_payloads(folder: Path) -> None:
    """Add payloads that must never run, under the names that libraries look for."""
    for name in ("pytorch_model.bin", "adapter_model.bin", "training_args.bin"):
        (folder / name).write_bytes(payload(folder))
    for name in ("evil.py", "custom_generate/generate.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(code(folder))


def tensors(inner: int = 32) -> dict[str, Any]:
    """Return random weights for `CONFIG` with this `n_inner`."""
    shapes: dict[str, tuple[int, ...]] = {"wte.weight": (40, 8), "wpe.weight": (16, 8)}
    for name, rows, columns in (
        ("h.0.attn.c_attn", 8, 24),
        ("h.0.attn.c_proj", 8, 8),
        ("h.0.mlp.c_fc", 8, inner),
        ("h.0.mlp.c_proj", inner, 8),
    ):
        shapes |= {f"{name}.weight": (rows, columns), f"{name}.bias": (columns,)}
    for name in ("h.0.ln_1", "h.0.ln_2", "ln_f"):
        shapes |= {f"{name}.weight": (8,), f"{name}.bias": (8,)}
    numbers = np.random.default_rng(0)
    return {f"transformer.{name}": numbers.random(shape, np.float32) for name, shape in shapes.items()}


def payload(folder: Path) -> bytes:
    return pickle.dumps(Payload(folder.parent / "executed"))


def code(folder: Path) -> str:
    return f"import os\nos.mkdir({str(folder.parent / 'executed')!r})\n"


def config(**changes: Any) -> Break:
    return edit("config.json", **changes)


def edit(name: str, **changes: Any) -> Break:
    def apply(folder: Path) -> None:
        path = folder / name
        content = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**content, **changes}))

    return apply


def text(name: str, content: str | bytes) -> Break:
    return lambda folder: (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def drop_key(config_key: str) -> Break:
    def apply(folder: Path) -> None:
        content = {key: value for key, value in CONFIG.items() if key != config_key}
        (folder / "config.json").write_text(json.dumps(content))

    return apply


def pickle_as(name: str) -> Break:
    def apply(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / name).write_bytes(payload(folder))

    return apply


def link(name: str, target: str) -> Break:
    """Replace `name` with a link to `target`, and move its content to `outside`, next to the folder."""

    def apply(folder: Path) -> None:
        (folder.parent / "outside").write_bytes((folder / name).read_bytes())
        (folder / name).unlink()
        (folder / name).symlink_to(target)

    return apply


def link_twice(folder: Path) -> None:
    link("tokenizer.json", "hop")(folder)
    (folder / "hop").symlink_to("../outside")


def replace(make: Callable[[Path], Any], name: str) -> Break:
    def apply(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return apply


def shard(weight_map: Any) -> Break:
    def apply(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "part.safetensors")
        (folder.parent / "outside.safetensors").write_bytes((folder / "part.safetensors").read_bytes())
        (folder / "part.bin").write_bytes(payload(folder))
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))

    return apply


def write_header(content: Any, size: int | None = None, data: int = 16) -> Break:
    """Write a weight file with this header, which claims to have `size` bytes."""

    def apply(folder: Path) -> None:
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        length = struct.pack("<Q", len(raw) if size is None else size)
        (folder / "model.safetensors").write_bytes(length + raw + bytes(data))

    return apply


def tensor(shape: list[int], start: int, end: int) -> dict[str, Any]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}


def add_invalid_name(folder: Path) -> None:
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff.txt")).write_text("")


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def pickle_weights(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(payload(folder))


DEEP = "[" * 200_000 + "]" * 200_000
NO_WEIGHTS = r"no safetensors weights"
BROKEN = r"model\.safetensors is broken"
OWN_FOLDER = "a model may read only its own folder"
ARCHITECTURE = "names no architecture|does not generate text"
VOCABULARY = r"config\.json has 'vocab_size' .+, which is not a number of tokens"
TOO_LARGE = "which is too large for its weights"

CASES: dict[str, tuple[Break, type[FledgeError], str]] = {
    "only a pickle": (pickle_as("pytorch_model.bin"), FledgeError, NO_WEIGHTS),
    "only Keras weights": (pickle_as("tf_model.h5"), FledgeError, NO_WEIGHTS),
    "only Flax weights": (pickle_as("flax_model.msgpack"), FledgeError, NO_WEIGHTS),
    "only GGUF": (pickle_as("model.gguf"), FledgeError, NO_WEIGHTS),
    "weights of another name": (pickle_as("consolidated.safetensors"), FledgeError, NO_WEIGHTS),
    "a pickle named safetensors": (pickle_weights, InputError, BROKEN),
    "auto_map": (
        config(auto_map={"AutoModelForCausalLM": "evil.Model"}),
        FledgeError,
        "'auto_map', which can run code",
    ),
    "trust_remote_code": (config(trust_remote_code=True), FledgeError, "'trust_remote_code', which can run code"),
    "an attention from the Hub": (
        config(_attn_implementation_internal="evil/kernel"),
        FledgeError,
        "'_attn_implementation_internal'",
    ),
    "experts from the Hub": (
        config(_experts_implementation_internal="evil/kernel"),
        FledgeError,
        "'_experts_implementation_internal'",
    ),
    "a kernel by its public name": (config(attn_implementation="evil/kernel"), FledgeError, "a kernel from the Hub"),
    "kernels by part": (config(_attn_implementation={"": "evil/kernel"}), FledgeError, "a kernel from the Hub"),
    "code in a nested config": (config(text_config={"x": [{"auto_map": {}}]}), FledgeError, "auto_map"),
    "code deep in lists": (config(x=[[[[{"y": [{"auto_map": "evil.Model"}]}]]]]), FledgeError, "auto_map"),
    "code deep in the tokenizer": (
        edit("tokenizer_config.json", added_tokens_decoder={"0": {"content": [{"auto_map": "evil.Tokenizer"}]}}),
        FledgeError,
        r"tokenizer_config\.json has 'auto_map'",
    ),
    "other weights by the config": (
        config(transformers_weights="other.safetensors"),
        FledgeError,
        "'transformers_weights'",
    ),
    "weights outside by the config": (
        config(transformers_weights="../outside.safetensors"),
        FledgeError,
        "'transformers_weights'",
    ),
    "a pickle by the config": (config(transformers_weights="adapter_model.bin"), FledgeError, "'transformers_weights'"),
    "code in the tokenizer": (
        edit("tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Tokenizer", None]}),
        FledgeError,
        r"tokenizer_config\.json has 'auto_map'",
    ),
    "code in generation settings": (
        edit("generation_config.json", trust_remote_code=True),
        FledgeError,
        r"generation_config\.json has 'trust_remote_code'",
    ),
    "a vocabulary elsewhere": (
        edit("tokenizer_config.json", vocab_file="/etc/passwd"),
        FledgeError,
        OWN_FOLDER,
    ),
    "a tokenizer elsewhere": (
        edit("tokenizer_config.json", tokenizer_file="../outside"),
        FledgeError,
        OWN_FOLDER,
    ),
    "a tokenizer elsewhere, by version": (
        edit("tokenizer_config.json", fast_tokenizer_files=["tokenizer.json", "../tokenizer.1.0.0.json"]),
        FledgeError,
        OWN_FOLDER,
    ),
    "weights linked to outside": (link("model.safetensors", "../outside"), FledgeError, "points outside the folder"),
    "a config linked to outside": (link("config.json", "../outside"), FledgeError, "points outside the folder"),
    "a tokenizer over two links": (link_twice, FledgeError, "points outside the folder"),
    "a model card linked to a device": (
        lambda folder: (folder / "README.md").symlink_to("/dev/zero"),
        FledgeError,
        "points outside the folder",
    ),
    "a link to nothing": (link("config.json", "missing"), InputError, "is a broken link"),
    "a link to itself": (link("config.json", "config.json"), InputError, "is a broken link"),
    "a folder for a config": (replace(Path.mkdir, "config.json"), InputError, "not a regular file"),
    "a name that is not UTF-8": (add_invalid_name, InputError, "name"),
    "a shard outside": (
        shard({"wte": "../outside.safetensors"}),
        FledgeError,
        "not a safetensors file in its folder",
    ),
    "a shard by absolute path": (shard({"wte": "/etc/passwd"}), FledgeError, "not a safetensors file in its folder"),
    "a pickled shard": (shard({"wte": "part.bin"}), FledgeError, "not a safetensors file in its folder"),
    "a shard that is missing": (shard({"wte": "other.safetensors"}), InputError, r"lacks 'other\.safetensors'"),
    "a shard that clears the screen": (shard({"wte": "\x1b[2J.safetensors"}), InputError, "which its index names"),
    "a kind of number that clears the screen": (
        write_header({"wte": {**tensor([4], 0, 16), "dtype": "\x1b[2J"}}),
        InputError,
        BROKEN,
    ),
    "an index that is a list": (shard(["part.safetensors"]), InputError, "no weight_map"),
    "an index of numbers": (shard({"wte": 1}), InputError, "no weight_map"),
    "an empty index": (shard({}), InputError, "no weight_map"),
    "a header of 2^62 bytes": (write_header(b"{}", size=2**62), InputError, BROKEN),
    "a header beyond the file": (write_header(b"{}", size=1000), InputError, BROKEN),
    "a header that is not JSON": (write_header(b"not json"), InputError, BROKEN),
    "a tensor beyond the file": (write_header({"wte": tensor([1000], 0, 4000)}), InputError, BROKEN),
    "overlapping tensors": (write_header({"a": tensor([4], 0, 16), "b": tensor([4], 0, 16)}), InputError, BROKEN),
    "a shape beyond its bytes": (write_header({"wte": tensor([2**40, 2**40], 0, 16)}), InputError, BROKEN),
    "a negative shape": (write_header({"wte": tensor([-4], 0, 16)}), InputError, BROKEN),
    "no tensors": (write_header({}, data=0), InputError, "without weights"),
    "an empty weight file": (text("model.safetensors", b""), InputError, BROKEN),
    "a truncated weight file": (truncate, InputError, BROKEN),
    "no config": (lambda folder: (folder / "config.json").unlink(), InputError, r"no config\.json"),
    "a config that is not JSON": (text("config.json", "{'a': 1}"), InputError, "is not JSON"),
    "a config that is not UTF-8": (text("config.json", b'{"a": "\xff"}'), InputError, "not UTF-8"),
    "a config that is a list": (text("config.json", "[]"), InputError, "not a JSON object"),
    "generation settings that are a list": (
        text("generation_config.json", "[]"),
        InputError,
        r"generation_config\.json is not a JSON object",
    ),
    "a deeply nested config": (text("config.json", DEEP), InputError, "nested too deeply|is not JSON"),
    "a config of many megabytes": (
        text("config.json", " " * (MAX_BYTES + 1)),
        InputError,
        "more than 20,000,000 bytes",
    ),
    "a number of 10,000 digits": (
        text("config.json", '{"vocab_size": ' + "9" * 10_000 + "}"),
        InputError,
        "is not JSON",
    ),
    "no architecture": (drop_key("architectures"), InputError, "names no architecture"),
    "an encoder": (config(architectures=["BertForMaskedLM"]), InputError, "does not generate text"),
    "an architecture that clears the screen": (
        config(architectures=["\x1b[2JForCausalLM"]),
        InputError,
        ARCHITECTURE,
    ),
    "an architecture that cannot be printed": (config(architectures=["\ud800ForCausalLM"]), InputError, ARCHITECTURE),
    "an adapter": (edit("adapter_config.json", peft_type="LORA"), InputError, "an adapter"),
    "no vocabulary": (drop_key("vocab_size"), InputError, VOCABULARY),
    "a vocabulary of billions": (config(vocab_size=10**12), InputError, VOCABULARY),
    "a vocabulary of words": (config(vocab_size="many"), InputError, VOCABULARY),
    "a vocabulary of truth": (config(vocab_size=True), InputError, VOCABULARY),
    "a billion layers": (config(n_layer=10**9), InputError, TOO_LARGE),
    "a billion positions": (config(n_positions=10**9), InputError, TOO_LARGE),
    "many positions to learn": (config(n_positions=10**6), InputError, TOO_LARGE),
    "a negative width": (config(hidden_size=-1), InputError, "'?hidden_size'? -1, which is not an integer"),
    "a width of a petabyte": (config(n_inner=10**15), InputError, TOO_LARGE),
    "a mask of a terabyte": (
        config(architectures=["GPTNeoForCausalLM"], model_type="gpt_neo", max_position_embeddings=10**6),
        InputError,
        TOO_LARGE,
    ),
    "a wide feed-forward part": (config(ffn_dim=10**12), InputError, TOO_LARGE),
    "wide heads": (config(head_dim=10**12), InputError, TOO_LARGE),
    "heads too wide for their width": (config(head_dim=1000), InputError, TOO_LARGE),
    "many heads for keys": (config(n_head=None, num_key_value_heads=10**12), InputError, TOO_LARGE),
    "many experts": (config(num_local_experts=10**12), InputError, TOO_LARGE),
    "heads as string": (config(num_attention_heads="8"), InputError, '"8", which is not an integer'),
}
