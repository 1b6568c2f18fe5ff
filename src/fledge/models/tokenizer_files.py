"""Check tokenizer files: is one present, do its token ids fit the model, is its output bounded?

A chain of normalizers, pre-tokenizers or decoders multiplies the length of a text. A few steps that each write 1,000
characters for one would exhaust memory.
"""

import base64
import binascii
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from fledge.core.errors import InputError
from fledge.models.config_files import FETCH_AGAIN, as_object, bad_value

WHOLE = "tokenizer.json"
CONFIG = "tokenizer_config.json"
# Files from which transformers can build a tokenizer; each set is enough.
CONVERTED = (
    ("vocab.json", "merges.txt"),
    ("vocab.txt",),
    ("tokenizer.model",),
    ("spiece.model",),
    ("sentencepiece.bpe.model",),
)
MODELS = ("BPE", "WordPiece", "WordLevel", "Unigram")
MAX_GROWTH = 32  # characters written for one; byte-level alphabets need up to 4
MAX_STEPS = 32
MAX_REGEX = 2_000
MAX_PIECE = 16  # characters of a prefix, suffix or delimiter; items of a template
MAX_CHARSMAP = 64  # bytes that a SentencePiece charsmap may write for one character; the longest of NFKC is 33
MAX_TOKEN = 4_096
MAX_ADDED_TOKEN = 256  # loading time is quadratic in it
MAX_ADDED_TOTAL = 100_000
# Embeddings are padded to a round number of rows, by at most 2.3 % in widely used models.
MAX_EMPTY_FRACTION = 0.05
MAX_EMPTY_ROWS = 64
# Steps that write several characters for one; the others only apply Unicode's rules.
GROWTH = {"ByteLevel": 4.0, "BertNormalizer": 3.0, "Metaspace": 2.0}
SAVE_AGAIN = "save tokenizer and model together, from one checkpoint"
_BEYOND = "is outside the vocabulary of {:,} tokens"
_TOO_MUCH = f"may turn one character into {{:,.0f}}; at most {MAX_GROWTH} are accepted"
SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
# Arguments of transformers' tokenizers that would replace the checked parts.
REPLACING = (
    *("tokenizer_object", "vocab", "merges", "gguf_file", "normalizer", "pre_tokenizer", "post_processor", "decoder"),
    *("tokenizer_padding", "tokenizer_truncation", "_json_padding", "_json_truncation", "_spm_precompiled_charsmap"),
)


def _is(*kinds: type) -> Callable[[Any], bool]:
    return lambda value: type(value) in kinds


KINDS: list[tuple[str, str, Callable[[Any], bool]]] = [
    *(
        (name, "true or false", _is(bool))
        for name in (
            *("add_bos_token", "add_eos_token", "add_prefix_space", "clean_up_tokenization_spaces", "legacy"),
            *("split_special_tokens", "do_lower_case", "keep_accents", "strip_accents", "fix_mistral_regex"),
        )
    ),
    *((name, "a string", _is(str)) for name in ("tokenizer_class", "backend", "errors", "name_or_path")),
    *(
        (name, "left or right", lambda value: value in ("left", "right"))
        for name in ("padding_side", "truncation_side")
    ),
    ("model_max_length", "a number", _is(int, float)),
    ("model_input_names", "a list of names", lambda value: isinstance(value, list) and all(map(_is(str), value))),
    ("chat_template", "a string, or a list of named ones", _is(str, list)),
]


def check(contents: Mapping[str, Any], names: Collection[str], vocabulary: int, source: str) -> None:
    """Check the tokenizer of a model with `vocabulary` tokens. `contents` are its JSON files, `names` all its files.

    Raises `InputError` with file and field if the tokenizer is missing, broken, unbounded or that of another model.
    """
    if WHOLE in names:
        check_tokenizer(contents[WHOLE], vocabulary, f"{source}/{WHOLE}")
    elif not any(all(name in names for name in group) for group in CONVERTED):
        raise InputError(
            f"{source} has no tokenizer: neither {WHOLE} nor {', '.join(' and '.join(group) for group in CONVERTED)}",
            hint="save it with the model: tokenizer.save_pretrained(DIR)",
        )
    elif "vocab.json" in names:
        vocab = as_object(contents["vocab.json"], f"{source}/vocab.json")
        _check_coverage(_check_ids(vocab, vocabulary, f"{source}/vocab.json", ""), vocabulary, f"{source}/vocab.json")
    for name in (CONFIG, "special_tokens_map.json"):
        if name in names:
            _check_config(as_object(contents[name], f"{source}/{name}"), f"{source}/{name}")
    if "added_tokens.json" in names:
        where = f"{source}/added_tokens.json"
        added = as_object(contents["added_tokens.json"], where)
        _check_added(((token[:50], token) for token in added), where)


def check_tokenizer(content: Any, vocabulary: int, where: str) -> None:
    """Check a tokenizer in the format of the library `tokenizers`. Raises `InputError`."""
    whole = as_object(content, where)
    model, added = whole.get("model"), whole.get("added_tokens") or []
    if not isinstance(model, dict):
        raise bad_value(where, "model", model, "which is not an object")
    if not isinstance(added, list) or not all(isinstance(token, dict) for token in added):
        raise bad_value(where, "added_tokens", added, "which is not a list of tokens")
    _check_added(((f"added_tokens.{at}", token.get("content")) for at, token in enumerate(added)), where)
    known = _check_model(model, vocabulary, where)
    for at, token in enumerate(added):
        number = token.get("id")
        # Padding tokens often lack a row in the embedding; fledge never feeds one to a model.
        padding = type(number) is int and number >= 0 and "pad" in token["content"].lower()
        if not (padding or _is_token(number, vocabulary)):
            raise bad_value(where, f"added_tokens.{at}.id", number, f"which {_BEYOND.format(vocabulary)}", SAVE_AGAIN)
        known.add(number)
    _check_coverage(known, vocabulary, where)
    written = _max_growth(whole, ("normalizer", "pre_tokenizer"), GROWTH, where)
    if written > MAX_GROWTH:
        fields = "'normalizer' and 'pre_tokenizer'"
        raise InputError(f"{where} has {fields} that {_TOO_MUCH.format(written)}", hint=FETCH_AGAIN)
    written = _max_growth(whole, ("decoder",), {}, where)
    if written > MAX_GROWTH:
        raise InputError(f"{where} has a 'decoder' that {_TOO_MUCH.format(written)}", hint=FETCH_AGAIN)
    for place, step in _flatten_steps(whole.get("post_processor"), where, "post_processor"):
        _check_post_processor(step, vocabulary, where, place)


def _is_token(number: Any, vocabulary: int) -> bool:
    return type(number) is int and 0 <= number < vocabulary


def _check_model(model: dict[str, Any], vocabulary: int, where: str) -> set[int]:
    """Check the settings of the tokenizer's model and return the ids of its tokens."""
    kind, vocab = model.get("type"), model.get("vocab")
    if kind is not None and kind not in MODELS:
        raise bad_value(where, "model.type", kind, f"which is not one of {', '.join(MODELS)}")
    if model.get("dropout"):
        raise bad_value(where, "model.dropout", model["dropout"], "which makes tokenization random")
    for field in ("continuing_subword_prefix", "end_of_word_suffix"):
        _check_piece(model.get(field), where, f"model.{field}")
    most = model.get("max_input_chars_per_word", 100)
    if type(most) is not int or not 1 <= most <= 1000:
        raise bad_value(where, "model.max_input_chars_per_word", most, "which is not an integer from 1 to 1000")
    if isinstance(vocab, list):  # Unigram: tokens with scores
        if not all(isinstance(item, list) and len(item) == 2 and isinstance(item[0], str) for item in vocab):
            raise InputError(f"{where} has 'model.vocab' that is not a list of tokens with scores", hint=FETCH_AGAIN)
        if len(vocab) > vocabulary:
            raise bad_value(
                where, "model.vocab", len(vocab), f"tokens, more than the vocabulary of {vocabulary:,}", SAVE_AGAIN
            )
        _check_lengths((token for token, _ in vocab), where)
        return set(range(len(vocab)))
    if not isinstance(vocab, dict):
        raise bad_value(where, "model.vocab", vocab, "which is not an object of tokens and ids")
    return _check_ids(vocab, vocabulary, where, "model.vocab.")


def _check_ids(vocab: dict[str, Any], vocabulary: int, where: str, place: str) -> set[int]:
    """Return the ids of a vocabulary. Raises `InputError` for one outside the model's."""
    for token, number in vocab.items():
        if not _is_token(number, vocabulary):
            raise bad_value(where, f"{place}{token[:50]}", number, f"which {_BEYOND.format(vocabulary)}", SAVE_AGAIN)
    _check_lengths(vocab, where)
    known = set(vocab.values())
    if len(known) != len(vocab):
        raise InputError(f"{where} has two tokens with the same id in its vocabulary", hint=FETCH_AGAIN)
    return known


def _check_lengths(tokens: Iterable[str], where: str) -> None:
    longest = max(tokens, key=len, default="")
    if len(longest) > MAX_TOKEN:
        raise InputError(
            f"{where} has the token {longest[:50]!a}... of {len(longest):,} characters; "
            f"at most {MAX_TOKEN:,} are accepted",
            hint=FETCH_AGAIN,
        )


def _check_coverage(known: set[int], vocabulary: int, where: str) -> None:
    tokens = sum(number < vocabulary for number in known)
    if vocabulary - tokens > max(MAX_EMPTY_ROWS, MAX_EMPTY_FRACTION * vocabulary):
        raise InputError(
            f"{where} has {tokens:,} tokens, but config.json has 'vocab_size' {vocabulary}: "
            f"{vocabulary - tokens:,} of the model's tokens have no text",
            hint=SAVE_AGAIN,
        )


def _flatten_steps(value: Any, where: str, place: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the steps of a normalizer, pre-tokenizer, decoder or post-processor, with sequences flattened."""
    found: list[tuple[str, dict[str, Any]]] = []
    pending = [] if value is None else [(place, value)]
    while pending:
        place, step = pending.pop()
        if not isinstance(step, dict):
            raise bad_value(where, place, step, "which is not an object")
        found.append((place, step))
        if len(found) + len(pending) > MAX_STEPS:
            raise InputError(f"{where} has {place.partition('.')[0]!a} with more than {MAX_STEPS} steps", FETCH_AGAIN)
        for name in ("normalizers", "pretokenizers", "decoders", "processors"):
            inner = step.get(name, [])
            if not isinstance(inner, list):
                raise bad_value(where, f"{place}.{name}", inner, "which is not a list")
            pending += [(f"{place}.{name}.{at}", item) for at, item in enumerate(inner)]
    return found


def _max_growth(whole: Mapping[str, Any], fields: Collection[str], usual: Mapping[str, float], where: str) -> float:
    """Return the most characters that chains of steps can write for one; `usual` has the factors of some types."""
    factor, charsmaps = 1.0, 0
    for field in fields:
        for place, step in _flatten_steps(whole.get(field), where, field):
            _check_step(step, where, place)
            factor *= (
                _replacement_growth(step) if step.get("type") == "Replace" else usual.get(str(step.get("type")), 1)
            )
            charsmaps += step.get("type") == "Precompiled"
    if charsmaps > 1:
        raise InputError(f"{where} has {fields} with more than one Precompiled", hint=FETCH_AGAIN)
    return factor


def _replacement_growth(step: dict[str, Any]) -> float:
    content, pattern = step["content"], step["pattern"]
    if pattern.get("String"):
        return max(1.0, len(content) / len(pattern["String"]))
    return 1.0 + len(content)  # a regular expression may match a letter, or the empty string before it


def _check_step(step: dict[str, Any], where: str, place: str) -> None:
    for name in ("prepend", "prefix", "suffix", "replacement", "delimiter", "pad_token", "word_delimiter_token"):
        _check_piece(step.get(name), where, f"{place}.{name}")
    pattern = step.get("pattern")
    if pattern is not None or step.get("type") == "Replace":
        texts = list(pattern.values()) if isinstance(pattern, dict) else []
        if len(texts) != 1 or not isinstance(texts[0], str):
            raise bad_value(where, f"{place}.pattern", pattern, "which is not one String or Regex")
        if len(texts[0]) > MAX_REGEX:
            raise bad_value(where, f"{place}.pattern", pattern, f"which has more than {MAX_REGEX:,} characters")
    if step.get("type") == "Replace" and not isinstance(step.get("content"), str):
        raise bad_value(where, f"{place}.content", step.get("content"), "which is not a string")
    if step.get("type") == "Precompiled":
        _check_charsmap(step.get("precompiled_charsmap"), where, f"{place}.precompiled_charsmap")


def _check_charsmap(value: Any, where: str, place: str) -> None:
    """Limit the strings that a charsmap writes: a trie after its size in bytes, then strings ended by zero bytes."""
    try:
        content = base64.b64decode(value, validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise bad_value(where, place, value, "which is not base64") from None
    texts = content[4 + int.from_bytes(content[:4], "little") :].split(b"\0")
    if max(map(len, texts)) > MAX_CHARSMAP:
        raise InputError(
            f"{where} has {place!a} that writes more than {MAX_CHARSMAP} bytes for one character", FETCH_AGAIN
        )


def _check_piece(value: Any, where: str, place: str) -> None:
    if value is not None and (not isinstance(value, str) or len(value) > MAX_PIECE):
        raise bad_value(where, place, value, f"which is not a string of up to {MAX_PIECE} characters")


def _check_post_processor(step: dict[str, Any], vocabulary: int, where: str, place: str) -> None:
    """Raise `InputError` unless a step only adds tokens of the model around a text."""
    ids = [step[name][1] for name in ("sep", "cls") if isinstance(step.get(name), list) and len(step[name]) == 2]
    special = step.get("special_tokens") or {}
    for token in special.values() if isinstance(special, dict) else ():
        found = token.get("ids") if isinstance(token, dict) else None
        if not isinstance(found, list) or len(found) > MAX_PIECE:
            raise bad_value(where, f"{place}.special_tokens", special, "which is not an object of tokens and ids")
        ids += found
    for number in ids:
        if not _is_token(number, vocabulary):
            raise bad_value(where, place, number, f"which {_BEYOND.format(vocabulary)}", SAVE_AGAIN)
    if step.get("type") == "TemplateProcessing":
        single = step.get("single")
        pieces = single if isinstance(single, list) else []
        texts = [piece["Sequence"] for piece in pieces if isinstance(piece, dict) and "Sequence" in piece]
        ids_of = [text.get("id") for text in texts if isinstance(text, dict)]
        if ids_of != ["A"] or len(pieces) > MAX_PIECE:
            raise bad_value(
                where,
                f"{place}.single",
                single,
                f"which is not the text ($A), exactly once, with fewer than {MAX_PIECE} tokens",
            )


def _check_added(tokens: Iterable[tuple[str, Any]], where: str) -> None:
    """Limit the lengths of added tokens: loading time is quadratic in them."""
    characters = 0
    for place, text in tokens:
        if not isinstance(text, str):
            raise bad_value(where, place, text, "which is not a string")
        characters += len(text)
        if len(text) > MAX_ADDED_TOKEN or characters > MAX_ADDED_TOTAL:
            raise InputError(
                f"{where} has {place!a} of {len(text):,} characters; added tokens may have up to "
                f"{MAX_ADDED_TOKEN} each and {MAX_ADDED_TOTAL:,} in all",
                hint=FETCH_AGAIN,
            )


def _check_config(config: dict[str, Any], where: str) -> None:
    for name in REPLACING:
        if name in config:
            raise bad_value(where, name, config[name], f"which would override {WHOLE}")
    for name, kind, is_valid in KINDS:
        value = config.get(name)
        if value is not None and not is_valid(value):
            raise bad_value(where, name, value, f"which is not {kind}")
    named = [(name, config[name]) for name in SPECIAL if config.get(name) is not None]
    for field in ("additional_special_tokens", "extra_special_tokens", "added_tokens_decoder"):
        value = config.get(field)
        if value is None:
            continue
        if not isinstance(value, dict if field == "added_tokens_decoder" else (list, dict)):
            raise bad_value(where, field, value, "which does not hold tokens")
        items = value.items() if isinstance(value, dict) else enumerate(value)
        named += [(f"{field}.{str(key)[:50]}", token) for key, token in items]
    _check_added(((place, token.get("content") if isinstance(token, dict) else token) for place, token in named), where)
    for key in config.get("added_tokens_decoder") or ():
        if not key.isdecimal() or len(key) > 10:
            raise bad_value(where, "added_tokens_decoder", key, "which is not a token id")
