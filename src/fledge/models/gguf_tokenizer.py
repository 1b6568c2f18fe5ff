"""Convert the tokenizer of a GGUF file: its tokens, merges, token types and pre-tokenizer name."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from tokenizers import Tokenizer

from fledge.core.errors import InputError
from fledge.models.gguf_header import HINT, Header

TOKENS, MERGES, TYPES = "tokenizer.ggml.tokens", "tokenizer.ggml.merges", "tokenizer.ggml.token_type"
ENDS = ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id")
NAMED = ("bos", "eos", "unknown", "padding")
MAX_TOKEN_CHARACTERS = 1024

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


class TokenType(IntEnum):
    """A token's type, as llama.cpp's converter writes it."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5


@dataclass(frozen=True)
class Splitting:
    """A pre-tokenizer, with the other properties of its kind of tokenizer."""

    steps: tuple[dict[str, Any], ...]
    normalizer: dict[str, Any] | None = None
    ignore_merges: bool = False
    add_bos: bool = False


def _byte_level(*, use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def _split_steps(pattern: str) -> tuple[dict[str, Any], ...]:
    step = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return (step, _byte_level(use_regex=False))


_LLAMA_3 = Splitting(
    _split_steps(rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_REST}"),
    ignore_merges=True,
    add_bos=True,
)
# By llama.cpp's name of the pre-tokenizer; each is as the model's authors wrote it.
SPLITTINGS = {
    "gpt-2": Splitting((_byte_level(use_regex=True),)),
    "smollm": Splitting(({"type": "Digits", "individual_digits": True}, _byte_level(use_regex=True))),
    "qwen2": Splitting(
        _split_steps(rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_REST}"), normalizer={"type": "NFC"}
    ),
    "llama-bpe": _LLAMA_3,
    "llama-v3": _LLAMA_3,
    "llama3": _LLAMA_3,
}


@dataclass(frozen=True)
class TokenizerFiles:
    """Contents of `tokenizer.json` and `tokenizer_config.json`, the chat template, the number of tokens, and the ids
    of special ones (-1: none)."""

    tokenizer: dict[str, Any]
    config: dict[str, Any]
    template: str
    tokens: int
    bos: int
    padding: int
    ends: tuple[int, ...]


def read_tokenizer(header: Header) -> TokenizerFiles:
    """Return the tokenizer that a header describes. Raises `InputError` if it is unsupported or inconsistent."""
    model = header.text("tokenizer.ggml.model")
    if model != "gpt2":
        raise header.error("tokenizer.ggml.model", "is not 'gpt2' (byte-level BPE), the only supported kind")
    splitting = SPLITTINGS.get(header.text("tokenizer.ggml.pre"))
    if splitting is None:
        raise header.error("tokenizer.ggml.pre", f"is not one of {', '.join(SPLITTINGS)}")
    tokens = _read_tokens(header)
    types = _read_types(header, len(tokens))
    ids = {name: _read_id(header, f"tokenizer.ggml.{name}_token_id", tokens) for name in NAMED}
    ends = dict.fromkeys(_read_id(header, key, tokens) for key in ENDS if key in header.metadata)
    added, last = _read_added_tokens(tokens, types)
    vocabulary = {token: number for number, token in enumerate(tokens[:last])}
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": splitting.normalizer,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": list(splitting.steps)},
        "post_processor": _post_processor(header, splitting, tokens, ids),
        "decoder": _byte_level(use_regex=True),
        "model": {
            "type": "BPE",
            "ignore_merges": splitting.ignore_merges,
            "vocab": vocabulary,
            "merges": _read_merges(header, vocabulary),
        },
    }
    words = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        **{word: tokens[ids[name]] for word, name in words.items() if ids[name] >= 0},
    }
    return TokenizerFiles(
        content,
        config,
        header.text("tokenizer.chat_template", ""),
        len(tokens),
        ids["bos"],
        ids["padding"],
        tuple(ends),
    )


def check_loads(text: str, files: TokenizerFiles, source: str) -> None:
    """Raise `InputError` unless `tokenizers` loads a `tokenizer.json` and gives each added token its id."""
    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:  # noqa: BLE001 (the library raises nothing more specific)
        raise InputError(f"{source} has a tokenizer that cannot be loaded: {str(error)!a}", hint=HINT) from None
    for token in files.tokenizer["added_tokens"]:
        if tokenizer.token_to_id(token["content"]) != token["id"]:
            raise InputError(f"{source} has the token {token['content']!a} under an impossible id", hint=HINT)


def _read_tokens(header: Header) -> list[str]:
    tokens = header.items(TOKENS, str)
    first: dict[str, int] = {}
    for number, token in enumerate(tokens):
        if not token or len(token) > MAX_TOKEN_CHARACTERS:
            why = f"must have 1 to {MAX_TOKEN_CHARACTERS} characters"
            raise InputError(f"{header.source} has token {number} of {len(token)} characters, which {why}", hint=HINT)
        if first.setdefault(token, number) != number:
            raise InputError(f"{header.source} has the token {token!a} twice: {first[token]} and {number}", hint=HINT)
    return tokens


def _read_types(header: Header, count: int) -> list[int]:
    types = header.items(TYPES, int)
    if len(types) != count:
        raise InputError(f"{header.source} has {len(types)} items in {TYPES} for {count} tokens", hint=HINT)
    wrong = set(types) - set(TokenType)
    if wrong:
        raise InputError(f"{header.source} has token type {min(wrong)} in {TYPES}, which is unknown", hint=HINT)
    return types


def _read_id(header: Header, key: str, tokens: Sequence[str]) -> int:
    return header.integer(key, 0, len(tokens) - 1) if key in header.metadata else -1


def _read_added_tokens(tokens: Sequence[str], types: Sequence[int]) -> tuple[list[dict[str, Any]], int]:
    """Return the added tokens, and the number of tokens before the added ones at the end.

    Unused tokens at the end only pad the embedding and are left out. The library numbers the added tokens at the end
    itself; in the vocabulary, merges could produce them.
    """
    end = len(tokens)
    while end and types[end - 1] == TokenType.UNUSED:
        end -= 1
    written = (TokenType.UNKNOWN, TokenType.CONTROL, TokenType.USER_DEFINED)
    last = end
    while last and types[last - 1] in written:
        last -= 1
    added = [
        {
            "id": number,
            "content": tokens[number],
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": types[number] != TokenType.USER_DEFINED,
        }
        for number in range(end)
        if types[number] in written
    ]
    return added, last


def _read_merges(header: Header, vocabulary: dict[str, int]) -> list[list[str]]:
    merges = []
    for number, text in enumerate(header.items(MERGES, str)):
        pair = text.split(" ")
        if len(pair) != 2 or any(part not in vocabulary for part in (*pair, "".join(pair))):
            raise InputError(f"{header.source} has merge {number}, {text[:50]!a}, with an unknown token", hint=HINT)
        merges.append(pair)
    return merges


def _post_processor(
    header: Header, splitting: Splitting, tokens: Sequence[str], ids: dict[str, int]
) -> dict[str, Any] | None:
    """Return the post-processor, which adds special tokens before and after a text; None if there are none."""
    places = []
    for name, default in (("bos", splitting.add_bos), ("eos", False)):
        key = f"tokenizer.ggml.add_{name}_token"
        enabled = header.flag(key, default)
        if enabled and ids[name] < 0:
            raise InputError(
                f"{header.source} adds a {name} token but has no tokenizer.ggml.{name}_token_id", hint=HINT
            )
        places.append(ids[name] if enabled else -1)
    before, after = ([{"SpecialToken": {"id": tokens[it], "type_id": 0}}] if it >= 0 else [] for it in places)
    if not before and not after:
        return None
    single = [*before, {"Sequence": {"id": "A", "type_id": 0}}, *after]
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, *before, {"Sequence": {"id": "B", "type_id": 1}}, *after],
        "special_tokens": {
            tokens[it]: {"id": tokens[it], "ids": [it], "tokens": [tokens[it]]} for it in places if it >= 0
        },
    }
