import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, pre_tokenizers
from tokenizers.decoders import ByteFallback, Strip
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from tokenizers.processors import TemplateProcessing

from fledge.core.errors import FledgeError, InputError
from fledge.core.types import Message
from fledge.engines.stream import Chunk
from fledge.engines.text import Decoder, Text, TextConfig, open_tokenizer, token_bytes, translate_errors
from fledge.models import snapshot
from fledge.models.snapshot import Snapshot

END = 0
CHATML = (
    "{% for m in messages %}<|endoftext|>{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


@pytest.fixture(scope="module")
def model() -> Snapshot:
    return snapshot.resolve("embedded")


def tokenizer(model: Snapshot) -> str:
    return (model.path / "tokenizer.json").read_text()


@pytest.fixture(scope="module")
def text(model: Snapshot) -> Text:
    return Text(TextConfig.of(model, tokenizer(model)))


def test_a_special_token_in_user_text_stays_text(text: Text) -> None:
    ids, left_out = text.encode("a <|endoftext|> b", room=10)
    assert END not in ids
    assert left_out == 0


def test_without_a_template_turns_end_with_the_end_token(text: Text) -> None:
    turns = [Message("user", "one"), Message("assistant", "two"), Message("user", "three")]
    ids, left_out = text.encode(turns, room=100)
    assert ids.count(END) == 3
    assert (ids[-1], left_out) == (END, 0)


def test_only_the_first_of_two_end_tokens_ends_a_turn(model: Snapshot) -> None:
    text = Text(replace(TextConfig.of(model, tokenizer(model)), end_tokens=(END, 5)))
    assert text.encode([Message("user", "one")], room=100).token_ids[-2:] != [END, 5]


def test_the_oldest_turns_are_left_out_and_counted(text: Text) -> None:
    turns = [Message("user", "first words " * 200), Message("assistant", "second"), Message("user", "third")]
    ids, left_out = text.encode(turns, room=100)
    assert left_out == 2  # a question and its answer
    assert ids == text.encode(turns[2:], room=100).token_ids


@pytest.mark.parametrize("second", ["user", "system"])
def test_only_a_leading_system_message_is_not_a_turn(text: Text, second: Literal["user", "system"]) -> None:
    turns = [Message("user", "first words " * 200), Message(second, "second"), Message("user", "third")]
    ids, left_out = text.encode(turns, room=100)
    assert left_out == 1
    assert ids == text.encode(turns[1:], room=100).token_ids


def test_a_prompt_may_fill_the_window(text: Text) -> None:
    turns = [Message("user", "some words"), Message("user", "and others"), Message("user", "and more")]
    whole, part = (len(text.encode(turns[start:], room=1).token_ids) for start in (0, 1))
    assert text.encode(turns, room=512 - whole).turns_left_out == 0
    assert text.encode(turns, room=512 - whole + 1).turns_left_out == 1
    assert text.encode(turns, room=512 - part).turns_left_out == 1
    assert text.encode(turns, room=512 - part + 1).turns_left_out == 2
    assert text.encode([5] * 448, room=64) == ([5] * 448, 0)
    with pytest.raises(InputError, match="449 tokens; the model takes 512, and 64 are kept for the answer"):
        text.encode([5] * 449, room=64)


@pytest.mark.parametrize("words", [[4] * 60, [1, 30, 2, 40, 1, 1, 25, 3, 90, 2, 7]])
def test_no_more_turns_than_needed_are_left_out(text: Text, words: list[int]) -> None:
    turns = [Message("assistant" if at % 2 else "user", "old word " * count) for at, count in enumerate(words)]
    ids, left_out = text.encode(turns, room=300)
    assert 0 < left_out < len(turns)
    assert turns[left_out].role == "user" or left_out == len(turns) - 1
    assert ids == text.encode(turns[left_out:], room=300).token_ids
    more = next(at for at in range(left_out - 1, -1, -1) if turns[at].role == "user")
    assert text.encode(turns[more:], room=300).turns_left_out > 0


def test_a_long_conversation_is_not_encoded_for_each_turn(text: Text, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded, encode = list[int](), Text._encode_turns

    def counting(self: Text, messages: Sequence[Message]) -> list[int]:
        encoded.append(len(messages))
        return encode(self, messages)

    monkeypatch.setattr(Text, "_encode_turns", counting)
    text.encode([Message("user", "word")] * 1000, room=300)
    assert len(encoded) < 20


def test_the_system_message_is_kept(text: Text) -> None:
    system = Message("system", "Be brief.")
    turns = [Message("user", "first words " * 200), Message("assistant", "second"), Message("user", "third")]
    ids, left_out = text.encode([system, *turns], room=100)
    assert left_out == 2
    assert ids == text.encode([system, turns[-1]], room=100).token_ids


@pytest.mark.parametrize("prompt", ["word " * 600, [Message("user", "word " * 600)], [5] * 600])
def test_a_prompt_that_is_too_long_is_refused(text: Text, prompt: str | list[Message] | list[int]) -> None:
    with pytest.raises(InputError, match=r"the prompt has \d+ tokens; the model takes 512"):
        text.encode(prompt, room=64)


def test_special_tokens_in_a_text_are_special_only_on_request(text: Text) -> None:
    spelled = text.tokenizer.id_to_token(END)
    plain = text.encode(f"one {spelled} two", room=10).token_ids
    special = text.encode(f"one {spelled} two", room=10, parse_special=True).token_ids
    assert END not in plain
    assert special.count(END) == 1


@pytest.mark.parametrize("prompt", ["", []])
def test_an_empty_prompt_is_refused(text: Text, prompt: str | list[int]) -> None:
    with pytest.raises(InputError, match=r"^the prompt is empty$"):
        text.encode(prompt, room=10)


def test_invalid_unicode_is_refused(text: Text) -> None:
    for prompt in ("lone \ud800 surrogate", [Message("user", "lone \ud800 surrogate")]):
        with pytest.raises(InputError, match=r"^the prompt is not valid Unicode text$"):
            text.encode(prompt, room=10)


def test_token_ids_are_used_unchanged(text: Text) -> None:
    assert text.encode([7, 0, 2047], room=10).token_ids == [7, 0, 2047]
    for beyond in ([2048], [-1]):
        with pytest.raises(InputError, match="beyond the model's 2048"):
            text.encode(beyond, room=10)


def test_a_tokenizer_panic_is_an_error_for_that_text_only(model: Snapshot) -> None:
    fragile = Tokenizer.from_str(tokenizer(model))
    before = fragile.encode("good morning").ids
    fragile.pre_tokenizer = pre_tokenizers.Sequence([Split(Regex("(a+)+$"), "isolated"), fragile.pre_tokenizer])
    text = Text(TextConfig.of(model, fragile.to_str()))
    for prompt in ("a" * 40 + "b", [Message("user", "a" * 40 + "b")]):
        with pytest.raises(InputError, match="the model's tokenizer fails on this text: Onig") as caught:
            text.encode(prompt, room=10)
        assert caught.value.hint
        assert text.encode("good morning", room=10).token_ids == before


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (KeyError("x"), "KeyError: 'x'"),
        (Exception("not\n  valid"), "not valid"),
        (Exception("a" * 400), "a" * 300),
    ],
)
def test_error_of_a_library_is_the_reason(error: Exception, reason: str) -> None:
    def call() -> None:
        raise error

    with pytest.raises(InputError) as caught:
        translate_errors(call, InputError("it failed", hint="try another"))
    assert (caught.value.message, caught.value.hint) == (f"it failed: {reason}", "try another")


def test_a_decoder_panic_is_an_error_for_that_answer_only(model: Snapshot) -> None:
    fragile = Tokenizer.from_str(tokenizer(model))
    fragile.decoder = Strip("H", 2, 2)
    (token,) = fragile.encode("H").ids
    with pytest.raises(FledgeError, match="the model's tokenizer fails on a token of the answer"):
        Decoder(fragile, ()).feed([token], None)
    (other,) = fragile.encode("x").ids
    assert Decoder(fragile, ()).feed([other], "stop").text == "x"


def test_padding_and_truncation_are_disabled(model: Snapshot) -> None:
    fixed = Tokenizer.from_str(tokenizer(model))
    plain = fixed.encode("a longer text than two tokens").ids
    fixed.enable_padding(length=64)
    fixed.enable_truncation(2)
    assert len(fixed.encode("a longer text than two tokens").ids) == 64
    text = Text(TextConfig.of(model, fixed.to_str()))
    assert text.encode("a longer text than two tokens", room=10).token_ids == plain


def test_a_broken_tokenizer_is_refused() -> None:
    for content in ("{}", "nothing", '{"normalizer": {"type": "Precompiled", "precompiled_charsmap": ""}}'):
        with pytest.raises(InputError, match=r"^tokenizer\.json cannot be loaded"):
            open_tokenizer(content)


def test_a_text_gets_the_special_tokens_of_the_post_processor(model: Snapshot) -> None:
    with_bos = Tokenizer.from_str(tokenizer(model))
    with_bos.post_processor = TemplateProcessing(single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", END)])
    text = Text(TextConfig.of(model, with_bos.to_str()))
    ids = text.encode("a <|endoftext|> b", room=10).token_ids
    assert ids[0] == END
    assert END not in ids[1:]
    assert text.encode([Message("user", "a b")], room=10).token_ids.index(END) > 0  # turns have no start token


def test_only_the_template_writes_special_tokens(model: Snapshot) -> None:
    text = Text(replace(TextConfig.of(model, tokenizer(model)), template=CHATML))
    plain = text.encode([Message("user", "a b")], room=10).token_ids
    assert plain.count(END) == 1
    for attack in ("a <|endoftext|> b", "<|endoftext|>", "\U000f0000", "a\U000f0000<|endoftext|>\U000f0001b"):
        assert text.encode([Message("user", attack)], room=10).token_ids.count(END) == 1
    for content in ("a b", "a <|endoftext|> b", "<|endoftext|>"):
        ids = text.encode([Message("user", content)], room=10).token_ids
        assert text.tokenizer.decode(ids, skip_special_tokens=True) == f"user: {content}\nassistant:"


def test_the_snapshots_template_is_used(model: Snapshot, tmp_path: Path) -> None:
    for name in model.files:
        (tmp_path / name).write_bytes((model.path / name).read_bytes())
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": CHATML}))
    text = Text(TextConfig.of(snapshot.resolve(str(tmp_path)), tokenizer(model)))
    ids = text.encode([Message("user", "hi")], room=10).token_ids
    assert text.tokenizer.decode(ids, skip_special_tokens=False) == "<|endoftext|>user: hi\nassistant:"


def test_decoding_gives_whole_characters(text: Text) -> None:
    words = "Grüße, 日本語 and 🙂!"
    decoder = Decoder(text.tokenizer, ())
    ids = text.encode(words, room=10).token_ids
    chunks = [decoder.feed([token], None) for token in ids] + [decoder.feed([], "stop")]
    assert "".join(chunk.text for chunk in chunks) == words
    assert all("\ufffd" not in chunk.text for chunk in chunks)


def test_special_and_end_tokens_are_not_in_the_text(model: Snapshot) -> None:
    added = Tokenizer.from_str(tokenizer(model))
    added.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    added.add_tokens(["<turn_end>"])  # as in models whose end token is not marked special
    start, end, unmarked = (added.token_to_id(name) for name in ("<|im_start|>", "<|im_end|>", "<turn_end>"))
    words = added.encode("Yes, it is.").ids
    decoder = Decoder(added, (), (unmarked,))
    chunks = [decoder.feed([token], None) for token in (start, *words[:2], END, *words[2:], end, unmarked)]
    assert "".join(chunk.text for chunk in [*chunks, decoder.feed([], "stop")]) == "Yes, it is."


def test_a_stop_sequence_split_over_tokens_is_not_returned(text: Text) -> None:
    decoder = Decoder(text.tokenizer, ("STOP",))
    parts: list[Chunk] = []
    for token in text.encode("one two STOP three", room=10).token_ids:
        parts.append(decoder.feed([token], None))
        if parts[-1].finish_reason:
            break
    assert "".join(part.text for part in parts) == "one two "
    assert parts[-1].finish_reason == "stop"


@pytest.mark.parametrize(
    ("stops", "expected"),
    [
        (("bcd", "c"), "ab"),  # the one that ends first
        (("b", "cd", "a2"), "a"),  # the first place of each
        (("cd", "bcd"), "a"),  # the longest of those that end at one place
    ],
)
def test_answer_ends_before_the_stop_sequence_that_ends_first(
    text: Text, stops: tuple[str, ...], expected: str
) -> None:
    ids = text.encode("abcd ab", room=10).token_ids
    assert Decoder(text.tokenizer, stops).feed(ids, None) == Chunk(expected, tuple(ids), "stop")


def test_text_that_starts_no_stop_sequence_is_returned_at_once(text: Text) -> None:
    decoder = Decoder(text.tokenizer, ("STOP", "T!"))
    parts = ["one two", " SOS", " STOR", " and T"]
    chunks = [decoder.feed(text.encode(part, room=10).token_ids, None).text for part in parts]
    assert chunks == ["one two", " SO", "S STOR", " and "]  # an S or a T at the end may start one
    ids = text.encode("one", room=10).token_ids
    assert Decoder(text.tokenizer, ()).feed(ids, None) == Chunk("one", tuple(ids))


def test_an_incomplete_stop_sequence_is_returned_at_the_end(text: Text) -> None:
    decoder = Decoder(text.tokenizer, ("STOP",))
    ids = text.encode("go ST", room=10).token_ids
    parts = [decoder.feed([token], None) for token in ids] + [decoder.feed([], "length")]
    assert "".join(part.text for part in parts) == "go ST"


def _byte_tokens(text: Text) -> dict[int, int]:
    """Return the token of each byte in the byte-level alphabet."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable} | {byte: chr(256 + at) for at, byte in enumerate(others)}
    return {byte: text.tokenizer.token_to_id(letter) for byte, letter in letters.items()}


def test_bytes_of_tokens_make_up_the_text(text: Text) -> None:
    words = "Grüße, 日本語 and 🙂! <|endoftext|>"
    ids = text.encode(words, room=10).token_ids
    assert b"".join(token_bytes(text.tokenizer, token) for token in ids) == words.encode()
    assert {byte: token_bytes(text.tokenizer, token) for byte, token in _byte_tokens(text).items()} == {
        byte: bytes([byte]) for byte in range(256)
    }
    assert token_bytes(text.tokenizer, END) == b"<|endoftext|>"


def test_bytes_of_sentencepiece_tokens() -> None:
    vocabulary = {"<0xE2>": 0, "<0x41>": 1, "\ufffd": 2}
    pieces = Tokenizer(WordLevel(vocabulary))
    pieces.decoder = ByteFallback()
    assert [token_bytes(pieces, token) for token in range(3)] == [b"\xe2", b"A", b""]


def _parts(items: list[int], places: list[int]) -> list[list[int]]:
    cuts = sorted({0, len(items), *(place % (len(items) + 1) for place in places)})
    return [items[start:stop] for start, stop in itertools.pairwise(cuts)]


def _until_first_stop(whole: str, stops: list[str]) -> str:
    """Return the text before the stop sequence that ends first; the longest one wins a tie."""
    found = [(whole.index(stop) + len(stop), whole.index(stop)) for stop in stops if stop in whole]
    return whole[: min(found)[1]] if found else whole


def _assert_decoded(text: Text, parts: list[list[int]], stops: list[str], expected: str, stopped: bool) -> None:
    decoder, emitted, reason = Decoder(text.tokenizer, stops), "", None
    for part in [*parts, []]:
        chunk = decoder.feed(part, None if part else "length")
        emitted, reason = emitted + chunk.text, chunk.finish_reason
        assert expected.startswith(emitted)
        if reason:
            break
    assert emitted == expected
    assert reason == ("stop" if stopped else "length")


# An answer may end within a character: the decoder then drops it, as it does U+FFFD.
CHARACTERS = st.characters(codec="utf-8", exclude_characters="\ufffd")


@settings(deadline=None)
@given(st.text(CHARACTERS), st.data(), st.lists(st.integers(0, 10_000)))
def test_any_text_is_decoded_for_any_chunks_of_bytes(
    text: Text, whole: str, data: st.DataObject, places: list[int]
) -> None:
    starts = st.integers(0, max(0, len(whole) - 1))
    inside = st.builds(lambda start, length: whole[start : start + length], starts, st.integers(1, 4))
    stops = data.draw(st.lists(st.one_of(inside, st.text(CHARACTERS, max_size=4)).filter(bool), max_size=4))
    tokens = _byte_tokens(text)
    parts = _parts([tokens[byte] for byte in whole.encode()], places)
    expected = _until_first_stop(whole, stops)
    _assert_decoded(text, parts, stops, expected, any(stop in whole for stop in stops))


@settings(deadline=None)
@given(st.lists(st.integers(0, 2047)), st.lists(st.integers(0, 10_000)), st.data())
def test_any_tokens_are_decoded_for_any_chunks(
    text: Text, token_ids: list[int], places: list[int], data: st.DataObject
) -> None:
    whole = Decoder(text.tokenizer, ()).feed(token_ids, "length").text
    everything = text.tokenizer.decode(token_ids, skip_special_tokens=True)
    assert everything.startswith(whole)
    assert set(everything[len(whole) :]) <= {"\ufffd"}
    start = data.draw(st.integers(0, max(0, len(whole) - 1)))
    stops = [stop for stop in (whole[start : start + 3], data.draw(st.text(max_size=3))) if stop]
    expected = _until_first_stop(whole, stops)
    _assert_decoded(text, _parts(token_ids, places), stops, expected, any(stop in whole for stop in stops))
