import pytest

from fledge.core.errors import InputError
from fledge.models import snapshot
from fledge.models.engine import Chunk, Message
from fledge.models.text import Decoder, Text


@pytest.fixture(scope="module")
def text() -> Text:
    model = snapshot.resolve("embedded")
    return Text(model.path, end_token=model.end_token, context=model.context)


def test_a_special_token_in_a_users_text_is_text(text: Text) -> None:
    assert text.end_token not in text.encode("a <|endoftext|> b", room=10)


def test_turns_end_in_the_end_token_and_the_oldest_go_first(text: Text) -> None:
    turns = [Message("user", "first words " * 200), Message("assistant", "second"), Message("user", "third")]
    ids = text.encode(turns, room=100)
    assert ids == text.encode(turns[1:], room=100)
    assert ids.count(text.end_token) == 2
    assert ids[-1] == text.end_token


@pytest.mark.parametrize("prompt", ["word " * 600, [Message("user", "word " * 600)]])
def test_too_long_is_said(text: Text, prompt: str | list[Message]) -> None:
    with pytest.raises(InputError, match=r"the prompt has \d+ tokens; the model takes 512"):
        text.encode(prompt, room=64)


def test_empty_and_invalid_prompts(text: Text) -> None:
    with pytest.raises(InputError, match="empty"):
        text.encode("", room=10)
    with pytest.raises(InputError, match="not valid Unicode"):
        text.encode("lone \ud800 surrogate", room=10)


def test_decoding_gives_whole_characters(text: Text) -> None:
    words = "Grüße, 日本語 and 🙂!"
    decoder = Decoder(text, ())
    ids = text.encode(words, room=10)
    chunks = [decoder.feed([token], None) for token in ids] + [decoder.feed([], "stop")]
    assert "".join(chunk.text for chunk in chunks) == words
    assert all("\ufffd" not in chunk.text for chunk in chunks)


def test_stop_text_is_not_returned_however_it_is_cut(text: Text) -> None:
    ids = text.encode("one two STOP three", room=10)
    decoder = Decoder(text, ("STOP",))
    parts: list[Chunk] = []
    for token in ids:
        parts.append(decoder.feed([token], None))
        if parts[-1].finish_reason:
            break
    assert "".join(part.text for part in parts) == "one two "
    assert parts[-1].finish_reason == "stop"


def test_the_start_of_a_stop_text_comes_out_at_the_end(text: Text) -> None:
    decoder = Decoder(text, ("STOP",))
    parts = [decoder.feed([token], None) for token in text.encode("go ST", room=10)] + [decoder.feed([], "length")]
    assert "".join(part.text for part in parts) == "go ST"
