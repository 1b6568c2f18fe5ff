"""Server-sent events, however they arrive."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.client.events import MAX_EVENT_BYTES, data_of
from fledge.core.errors import FledgeError


@given(st.lists(st.text(), min_size=1), st.lists(st.integers(0, 10_000)), st.sampled_from(["\n", "\r\n"]))
def test_any_text_survives_any_cut(texts: list[str], places: list[int], end: str) -> None:
    raw = "".join(f"data: {json.dumps(text, ensure_ascii=False)}{end}{end}" for text in texts).encode(errors="replace")
    cuts = [0, *sorted(place % (len(raw) + 1) for place in places), len(raw)]
    parts = [raw[start:stop] for start, stop in itertools.pairwise(cuts)]
    expected = [text.encode(errors="replace").decode() for text in texts]
    assert [json.loads(data) for data in data_of(parts)] == expected


def test_other_lines_are_passed_over_and_several_of_data_are_one() -> None:
    raw = b": keep-alive\n\nevent: message\nid: 1\ndata: one\ndata:two\nretry: 5\n\n\n\ndata: broken off"
    assert list(data_of([raw])) == ["one\ntwo"]


def test_what_never_ends_is_refused() -> None:
    with pytest.raises(FledgeError, match="longer than"):
        list(data_of(b"x" * 1_000_000 for _ in range(100)))
    line = b"data: " + b"x" * 1_000_000 + b"\n"
    with pytest.raises(FledgeError, match="larger than"):
        list(data_of(line for _ in range(MAX_EVENT_BYTES // 1_000_000 + 1)))
    with pytest.raises(FledgeError, match="not UTF-8"):
        list(data_of([b"data: \xff\n\n"]))
