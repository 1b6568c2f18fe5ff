"""Tokenizers: is there one among the model's files, do its token ids fit the model, and is its output bounded?

The growth of a text is multiplied along a chain of normalizers, pre-tokenizers or decoders: a few that write 1,000
characters for each one fill the memory of the process that runs them.
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
MOST_GROWTH = 32  # characters for each; byte-level alphabets take up to 4
MOST_STEPS = 32
MOST_REGEX = 2_000
MOST_PIECE = 16  # characters of a prefix, suffix or delimiter; items of a template
MOST_CHARSMAP = 64  # bytes that a SentencePiece charsmap may write for one character; the longest of NFKC is 33
MOST_TOKEN = 4_096
MOST_ADDED_TOKEN = 256  # loading takes time quadratic in it
MOST_ADDED_IN_ALL = 100_000
# Embeddings are padded to a round number of rows, by at most 2.3 % in widely used models.
MOST_EMPTY_ROWS = 0.05
FEW_ROWS = 64
# Steps that write several characters for one; the others grow a text no more than Unicode's own rules do.
GROWTH = {"ByteLevel": 4.0, "BertNormalizer": 3.0, "Metaspace": 2.0}
SAVE_AGAIN = "save tokenizer and model together, from one checkpoint"
_BEYOND = "is outside the vocabulary of {:,} tokens"
_TOO_MUCH = f"may turn one character into {{:,.0f}}; at most {MOST_GROWTH} are accepted"
SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
# Arguments of transformers' tokenizers that would replace what was checked.
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
    *((name, "a text", _is(str)) for name in ("tokenizer_class", "backend", "errors", "name_or_path")),
    *(
        (name, "left or right", lambda value: value in ("left", "right"))
        for name in ("padding_side", "truncation_side")
    ),
    ("model_max_length", "a number", _is(int, float)),
    ("model_input_names", "a list of names", lambda value: isinstance(value, list) and all(map(_is(str), value))),
    ("chat_template", "a text, or a list of them by name", _is(str, list)),
]


def check(contents: Mapping[str, Any], names: Collection[str], vocabulary: int, source: str) -> None:
    """Look at the tokenizer among the JSON files `contents` of a model with so many tokens; `names` are all its files.

    Raises `InputError` that names file and field where there is none, or it is broken, not the model's, or unbounded.
    """
    if WHOLE in names:
        check_tokenizer(contents[WHOLE], vocabulary, f"{source}/{WHOLE}")
    elif not any(all(name in names for name in group) for group in CONVERTED):
        raise InputError(
            f"{source} has no tokenizer: neither {WHOLE} nor {', '.join(' and '.join(group) for group in CONVERTED)}",
            hint="save it beside the model: tokenizer.save_pretrained(DIR)",
        )
    elif "vocab.json" in names:
        vocab = as_object(contents["vocab.json"], f"{source}/vocab.json")
        _check_coverage(_numbers(vocab, vocabulary, f"{source}/vocab.json", ""), vocabulary, f"{source}/vocab.json")
    for name in (CONFIG, "special_tokens_map.json"):
        if name in names:
            _check_config(as_object(contents[name], f"{source}/{name}"), f"{source}/{name}")
    if "added_tokens.json" in names:
        where = f"{source}/added_tokens.json"
        added = as_object(contents["added_tokens.json"], where)
        _check_added(((token[:50], token) for token in added), where)


def check_tokenizer(content: Any, vocabulary: int, where: str) -> None:
    """Look at a tokenizer as the library `tokenizers` writes it."""
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
        # Padding tokens are often added without a row in the embedding, and fledge never feeds one to a model.
        padding = type(number) is int and number >= 0 and "pad" in token["content"].lower()
        if not (padding or _is_token(number, vocabulary)):
            raise bad_value(where, f"added_tokens.{at}.id", number, f"which {_BEYOND.format(vocabulary)}", SAVE_AGAIN)
        known.add(number)
    _check_coverage(known, vocabulary, where)
    written = _growth(whole, ("normalizer", "pre_tokenizer"), GROWTH, where)
    if written > MOST_GROWTH:
        fields = "'normalizer' and 'pre_tokenizer'"
        raise InputError(f"{where} has {fields} that {_TOO_MUCH.format(written)}", hint=FETCH_AGAIN)
    written = _growth(whole, ("decoder",), {}, where)
    if written > MOST_GROWTH:
        raise InputError(f"{where} has a 'decoder' that {_TOO_MUCH.format(written)}", hint=FETCH_AGAIN)
    for place, step in _steps(whole.get("post_processor"), where, "post_processor"):
        _check_post_processor(step, vocabulary, where, place)


def _is_token(number: Any, vocabulary: int) -> bool:
    return type(number) is int and 0 <= number < vocabulary


def _check_model(model: dict[str, Any], vocabulary: int, where: str) -> set[int]:
    """The ids of the model's tokens, after checking its settings."""
    kind, vocab = model.get("type"), model.get("vocab")
    if kind is not None and kind not in MODELS:
        raise bad_value(where, "model.type", kind, f"which is none of {', '.join(MODELS)}")
    if model.get("dropout"):
        raise bad_value(where, "model.dropout", model["dropout"], "which makes its tokens random")
    for field in ("continuing_subword_prefix", "end_of_word_suffix"):
        _check_piece(model.get(field), where, f"model.{field}")
    most = model.get("max_input_chars_per_word", 100)
    if type(most) is not int or not 1 <= most <= 1000:
        raise bad_value(where, "model.max_input_chars_per_word", most, "which is not a whole number from 1 to 1000")
    if isinstance(vocab, list):  # of Unigram, with scores
        if not all(isinstance(item, list) and len(item) == 2 and isinstance(item[0], str) for item in vocab):
            raise InputError(f"{where} has 'model.vocab' that is not a list of tokens with scores", hint=FETCH_AGAIN)
        if len(vocab) > vocabulary:
            raise bad_value(
                where, "model.vocab", len(vocab), f"tokens, more than the vocabulary of {vocabulary:,}", SAVE_AGAIN
            )
        _check_lengths((token for token, _ in vocab), where)
        return set(range(len(vocab)))
    if not isinstance(vocab, dict):
        raise bad_value(where, "model.vocab", vocab, "which is not an object of tokens and their numbers")
    return _numbers(vocab, vocabulary, where, "model.vocab.")


def _numbers(vocab: dict[str, Any], vocabulary: int, where: str, place: str) -> set[int]:
    """The ids of a vocabulary, each of which must fit the model."""
    for token, number in vocab.items():
        if not _is_token(number, vocabulary):
            raise bad_value(where, f"{place}{token[:50]}", number, f"which {_BEYOND.format(vocabulary)}", SAVE_AGAIN)
    _check_lengths(vocab, where)
    known = set(vocab.values())
    if len(known) != len(vocab):
        raise InputError(f"{where} has two tokens with one id in its vocabulary", hint=FETCH_AGAIN)
    return known


def _check_lengths(tokens: Iterable[str], where: str) -> None:
    longest = max(tokens, key=len, default="")
    if len(longest) > MOST_TOKEN:
        raise InputError(
            f"{where} has the token {longest[:50]!a}... of {len(longest):,} characters; "
            f"at most {MOST_TOKEN:,} are accepted",
            hint=FETCH_AGAIN,
        )


def _check_coverage(known: set[int], vocabulary: int, where: str) -> None:
    tokens = sum(number < vocabulary for number in known)
    if vocabulary - tokens > max(FEW_ROWS, MOST_EMPTY_ROWS * vocabulary):
        raise InputError(
            f"{where} has {tokens:,} tokens, but config.json has 'vocab_size' {vocabulary}: "
            f"{vocabulary - tokens:,} of the model's tokens would have no text",
            hint=SAVE_AGAIN,
        )


def _steps(value: Any, where: str, place: str) -> list[tuple[str, dict[str, Any]]]:
    """The steps of a normalizer, pre-tokenizer, decoder or post-processor, those of sequences one after the other."""
    found: list[tuple[str, dict[str, Any]]] = []
    pending = [] if value is None else [(place, value)]
    while pending:
        place, step = pending.pop()
        if not isinstance(step, dict):
            raise bad_value(where, place, step, "which is not an object")
        found.append((place, step))
        if len(found) + len(pending) > MOST_STEPS:
            raise InputError(f"{where} has {place.partition('.')[0]!a} of more than {MOST_STEPS} steps", FETCH_AGAIN)
        for name in ("normalizers", "pretokenizers", "decoders", "processors"):
            inner = step.get(name, [])
            if not isinstance(inner, list):
                raise bad_value(where, f"{place}.{name}", inner, "which is not a list")
            pending += [(f"{place}.{name}.{at}", item) for at, item in enumerate(inner)]
    return found


def _growth(whole: Mapping[str, Any], fields: Collection[str], usual: Mapping[str, float], where: str) -> float:
    """The most characters that chains of steps may write for one; `usual` gives those of some types."""
    factor, charsmaps = 1.0, 0
    for field in fields:
        for place, step in _steps(whole.get(field), where, field):
            _check_step(step, where, place)
            factor *= _replacement(step) if step.get("type") == "Replace" else usual.get(str(step.get("type")), 1)
            charsmaps += step.get("type") == "Precompiled"
    if charsmaps > 1:
        raise InputError(f"{where} has {fields} with more than one Precompiled", hint=FETCH_AGAIN)
    return factor


def _replacement(step: dict[str, Any]) -> float:
    content, pattern = step["content"], step["pattern"]
    if pattern.get("String"):
        return max(1.0, len(content) / len(pattern["String"]))
    return 1.0 + len(content)  # a regular expression may match one letter, or the empty place before each


def _check_step(step: dict[str, Any], where: str, place: str) -> None:
    for name in ("prepend", "prefix", "suffix", "replacement", "delimiter", "pad_token", "word_delimiter_token"):
        _check_piece(step.get(name), where, f"{place}.{name}")
    pattern = step.get("pattern")
    if pattern is not None or step.get("type") == "Replace":
        texts = list(pattern.values()) if isinstance(pattern, dict) else []
        if len(texts) != 1 or not isinstance(texts[0], str):
            raise bad_value(where, f"{place}.pattern", pattern, "which is not one String or Regex")
        if len(texts[0]) > MOST_REGEX:
            raise bad_value(where, f"{place}.pattern", pattern, f"which has more than {MOST_REGEX:,} characters")
    if step.get("type") == "Replace" and not isinstance(step.get("content"), str):
        raise bad_value(where, f"{place}.content", step.get("content"), "which is not a text")
    if step.get("type") == "Precompiled":
        _check_charsmap(step.get("precompiled_charsmap"), where, f"{place}.precompiled_charsmap")


def _check_charsmap(value: Any, where: str, place: str) -> None:
    """The size of a trie in bytes, the trie, then the texts that it leads to, each ended by a zero byte."""
    try:
        content = base64.b64decode(value, validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise bad_value(where, place, value, "which is not base64") from None
    texts = content[4 + int.from_bytes(content[:4], "little") :].split(b"\0")
    if max(map(len, texts)) > MOST_CHARSMAP:
        raise InputError(
            f"{where} has {place!a} that writes more than {MOST_CHARSMAP} bytes for one character", FETCH_AGAIN
        )


def _check_piece(value: Any, where: str, place: str) -> None:
    if value is not None and (not isinstance(value, str) or len(value) > MOST_PIECE):
        raise bad_value(where, place, value, f"which is not a text of up to {MOST_PIECE} characters")


def _check_post_processor(step: dict[str, Any], vocabulary: int, where: str, place: str) -> None:
    """It may only add tokens of the model before and after a text."""
    ids = [step[name][1] for name in ("sep", "cls") if isinstance(step.get(name), list) and len(step[name]) == 2]
    special = step.get("special_tokens") or {}
    for token in special.values() if isinstance(special, dict) else ():
        found = token.get("ids") if isinstance(token, dict) else None
        if not isinstance(found, list) or len(found) > MOST_PIECE:
            raise bad_value(
                where, f"{place}.special_tokens", special, "which is not an object of tokens with their ids"
            )
        ids += found
    for number in ids:
        if not _is_token(number, vocabulary):
            raise bad_value(where, place, number, f"which {_BEYOND.format(vocabulary)}", SAVE_AGAIN)
    if step.get("type") == "TemplateProcessing":
        single = step.get("single")
        pieces = single if isinstance(single, list) else []
        texts = [piece["Sequence"] for piece in pieces if isinstance(piece, dict) and "Sequence" in piece]
        ids_of = [text.get("id") for text in texts if isinstance(text, dict)]
        if ids_of != ["A"] or len(pieces) > MOST_PIECE:
            raise bad_value(
                where, f"{place}.single", single, "which does not contain the text ($A) exactly once, among few tokens"
            )


def _check_added(tokens: Iterable[tuple[str, Any]], where: str) -> None:
    """Limit their lengths: the time to load one is quadratic in it."""
    characters = 0
    for place, text in tokens:
        if not isinstance(text, str):
            raise bad_value(where, place, text, "which is not a text")
        characters += len(text)
        if len(text) > MOST_ADDED_TOKEN or characters > MOST_ADDED_IN_ALL:
            raise InputError(
                f"{where} has {place!a} of {len(text):,} characters; an added token may have "
                f"{MOST_ADDED_TOKEN}, and all of them {MOST_ADDED_IN_ALL:,}",
                hint=FETCH_AGAIN,
            )


def _check_config(config: dict[str, Any], where: str) -> None:
    for name in REPLACING:
        if name in config:
            raise bad_value(where, name, config[name], f"which would replace what {WHOLE} says")
    for name, words, holds in KINDS:
        value = config.get(name)
        if value is not None and not holds(value):
            raise bad_value(where, name, value, f"which is not {words}")
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
