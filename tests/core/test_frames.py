"""Messages on the line between an endpoint and its engines, however the bytes are cut."""

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.core.frames import ASK, CANCEL, MAXIMUM_BYTES, PIECES, Frames, frame

Message = tuple[int, bytes]
MESSAGES = st.lists(st.tuples(st.sampled_from([ASK, CANCEL, PIECES, 0, 255]), st.binary(max_size=300)), max_size=20)


def _cut(content: bytes, places: Sequence[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(content) + 1) for place in places), len(content)]
    return [content[start:end] for start, end in itertools.pairwise(edges)]


@given(MESSAGES, st.lists(st.integers(0, 10_000), max_size=50))
def test_messages_arrive_whole_and_in_order_however_they_are_cut(messages: list[Message], places: list[int]) -> None:
    content = b"".join(frame(kind, body) for kind, body in messages)
    frames = Frames()
    assert [message for part in _cut(content, places) for message in frames.feed(part)] == messages


@given(MESSAGES)
def test_byte_by_byte(messages: list[Message]) -> None:
    frames = Frames()
    content = b"".join(frame(kind, body) for kind, body in messages)
    assert [message for byte in content for message in frames.feed(bytes([byte]))] == messages


@given(st.tuples(st.integers(0, 255), st.binary(max_size=100)), st.integers(1, 104))
def test_what_is_not_whole_yet_is_kept_back(message: Message, missing: int) -> None:
    content = frame(*message)
    frames = Frames()
    start = content[: max(0, len(content) - missing)]
    assert list(frames.feed(start)) == []
    assert list(frames.feed(content[len(start) :])) == [message]


def test_a_length_that_no_message_has_is_refused_at_its_head() -> None:
    for length in (MAXIMUM_BYTES + 1, 2**32 - 1):
        with pytest.raises(ValueError, match=f"a message of {length} bytes"):
            list(Frames().feed(length.to_bytes(4) + b"\x03"))
    assert list(Frames().feed(MAXIMUM_BYTES.to_bytes(4) + b"\x03")) == []


def test_what_comes_before_a_bad_length_is_still_given() -> None:
    frames = Frames().feed(frame(PIECES, b"good") + b"\xff" * 5)
    assert next(frames) == (PIECES, b"good")
    with pytest.raises(ValueError, match="a message of"):
        next(frames)


@given(st.binary(max_size=2000))
def test_nonsense_gives_messages_or_is_refused(content: bytes) -> None:
    frames = Frames()
    try:
        found = list(frames.feed(content))
    except ValueError:
        return
    rebuilt = b"".join(frame(kind, body) for kind, body in found)
    assert content.startswith(rebuilt)
