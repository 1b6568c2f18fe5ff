"""Framing of messages, with bytes in arbitrary chunks."""

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.core.frames import ASK, CANCEL, MAXIMUM_BYTES, PIECES, Frames, frame

Message = tuple[int, bytes]
MESSAGES = st.lists(st.tuples(st.sampled_from([ASK, CANCEL, PIECES, 0, 255]), st.binary(max_size=300)), max_size=20)


def _split(content: bytes, positions: Sequence[int]) -> list[bytes]:
    edges = [0, *sorted(position % (len(content) + 1) for position in positions), len(content)]
    return [content[start:end] for start, end in itertools.pairwise(edges)]


@given(MESSAGES, st.lists(st.integers(0, 10_000), max_size=50))
def test_messages_are_decoded_in_order_from_arbitrary_chunks(messages: list[Message], positions: list[int]) -> None:
    content = b"".join(frame(kind, body) for kind, body in messages)
    frames = Frames()
    assert [message for part in _split(content, positions) for message in frames.feed(part)] == messages


@given(MESSAGES)
def test_messages_are_decoded_byte_by_byte(messages: list[Message]) -> None:
    frames = Frames()
    content = b"".join(frame(kind, body) for kind, body in messages)
    assert [message for byte in content for message in frames.feed(bytes([byte]))] == messages


@given(st.tuples(st.integers(0, 255), st.binary(max_size=100)), st.integers(1, 104))
def test_incomplete_message_is_buffered(message: Message, missing: int) -> None:
    content = frame(*message)
    frames = Frames()
    start = content[: max(0, len(content) - missing)]
    assert list(frames.feed(start)) == []
    assert list(frames.feed(content[len(start) :])) == [message]


def test_excessive_length_is_refused_before_the_body() -> None:
    for length in (MAXIMUM_BYTES + 1, 2**32 - 1):
        with pytest.raises(ValueError, match=f"a message of {length} bytes"):
            list(Frames().feed(length.to_bytes(4) + b"\x03"))
    assert list(Frames().feed(MAXIMUM_BYTES.to_bytes(4) + b"\x03")) == []


def test_messages_before_an_excessive_length_are_decoded() -> None:
    frames = Frames().feed(frame(PIECES, b"good") + b"\xff" * 5)
    assert next(frames) == (PIECES, b"good")
    with pytest.raises(ValueError, match="a message of"):
        next(frames)


@given(st.binary(max_size=2000))
def test_random_bytes_are_decoded_or_refused(content: bytes) -> None:
    frames = Frames()
    try:
        found = list(frames.feed(content))
    except ValueError:
        return
    rebuilt = b"".join(frame(kind, body) for kind, body in found)
    assert content.startswith(rebuilt)
