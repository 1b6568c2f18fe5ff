"""Reading of streamed answers."""

import itertools
import json
from collections.abc import Iterable

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.client.address import Address
from fledge.client.answers import MAX_EVENT_BYTES, StreamReader, event_source
from fledge.core.errors import FledgeError
from tests.chat.scripted_server import piece

ADDRESS = Address.parse("http://127.0.0.1:5001")


def _texts(parts: Iterable[bytes]) -> list[str]:
    reader = StreamReader(ADDRESS, httpx.Headers())
    return [reader.read(event.data).text for event in event_source(map(reader.check, parts)).iter_sse() if event.data]


@given(st.lists(st.text(), min_size=1), st.lists(st.integers(0, 10_000)), st.sampled_from(["\n", "\r\n"]))
def test_any_text_is_read_from_arbitrary_chunks(texts: list[str], positions: list[int], end: str) -> None:
    events = (f"data: {json.dumps(piece(text), ensure_ascii=False)}{end}{end}" for text in texts)
    raw = "".join(events).encode(errors="replace")
    cuts = [0, *sorted(position % (len(raw) + 1) for position in positions), len(raw)]
    parts = [raw[start:stop] for start, stop in itertools.pairwise(cuts)]
    assert _texts(parts) == [text.encode(errors="replace").decode() for text in texts]


def test_comments_are_skipped_and_data_lines_are_joined() -> None:
    first, second = json.dumps(piece("one"), indent=1).split("\n", 1)
    data = f"data: {first}\ndata:{second}".replace("\n ", "\ndata: ").replace("\n}", "\ndata: }")
    raw = f": keep-alive\n\nevent: message\nid: 1\n{data}\nretry: 5\n\n\n\ndata: broken off"
    assert _texts([raw.encode()]) == ["one"]


def test_oversized_events_and_invalid_utf8_are_refused() -> None:
    with pytest.raises(FledgeError, match="an event larger than"):
        _texts(b"x" * 1_000_000 for _ in itertools.count())
    with pytest.raises(FledgeError, match="an event larger than"):
        _texts(b"data: " + b"x" * 1_000_000 + b"\n" for _ in itertools.count())
    with pytest.raises(FledgeError, match="not UTF-8"):
        _texts([b"data: \xff\n\n"])


def test_answer_of_short_events_has_no_size_limit() -> None:
    event = b"data: " + json.dumps(piece("x" * 1_000_000)).encode() + b"\n\n"
    count = MAX_EVENT_BYTES // 1_000_000 + 2
    assert len(_texts(event for _ in range(count))) == count
