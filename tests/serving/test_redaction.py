"""Redaction of records: texts that each pattern must redact or leave, and failing rules."""

import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.core.errors import InputError
from fledge.serving.redaction import PATTERNS, RedactionError, make_redactor

REDACTORS = {name: make_redactor([name]) for name in PATTERNS}
ALL_PATTERNS = make_redactor([*PATTERNS])
SEPARATOR = st.sampled_from(["", " ", "-", "\u00a0", "\u2011"])
DIGITS = st.characters(categories=["Nd"], max_codepoint=127)
ALPHANUMERIC = st.characters(categories=["Nd", "Ll", "Lu"], max_codepoint=127)
BEFORE = st.sampled_from(["", " ", "see ", "(", "<", "\n", "mine: ", '{"a": "', "schön, "])
AFTER = st.sampled_from(["", " ", " now", ")", ">", "\n", ".", ",", '"}', "!"])

SENSITIVE = {
    "email": ["a@x.org", "o'brien@x.org", "john.doe+tag@mail.example.co.uk", "Jörg@bücher.de", '"john doe"@x.org',
              "me@[192.168.0.1]", "A_B-c@x-y.museum", "a" * 100 + "@x.org", "50%off@shop.example"],
    "phone": ["+1 (415) 555-2671", "415-555-2671", "(415) 555-2671", "415.555.2671", "020 7946 0958", "+49 30 901820",
              "+49 (0)30 901820", "0171/1234567", "01 23 45 67 89", "612 34 56 78", "4155552671", "555-2671",
              "+4915112345678", "0049 30 901820", "+44\u00a020\u00a07946\u00a00958", "1-800-555-0199", "(030) 901820"],
    "card": ["4111 1111 1111 1111", "4111-1111-1111-1111", "4111111111111111", "378282246310005", "3782 822463 10005",
             "4111\u00a01111\u00a01111\u00a01111"],
    "ip": ["192.168.1.10", "10.0.0.1", "::1", "fe80::1", "2001:db8::ff00:42:8329", "2001:0db8:85a3:0:0:8a2e:0370:7334",
           "::ffff:192.168.1.1", "64:ff9b::192.0.2.33", "1:2:3:4:5:6:7.8.9.10", "2001:db8::"],
    "iban": ["DE89 3704 0044 0532 0130 00", "DE89370400440532013000", "NO93 8601 1117 947", "NO9386011117947",
             "MT84MALT011000012345MTLCAST001S", "GB29 NWBK 6016 1331 9268 19", "de89 3704 0044 0532 0130 00",
             "BE68 5390 0754 7034", "FR14 2004 1010 0505 0001 3M02 606", "DE89-3704-0044-0532-0130-00"],
    "secret": ["sk-proj-abcdefghij0123456789", "sk_live_abcdefghijklmnop1234", "ghp_abcdefghijklmnopqrstuvwxyz01234567",
               "hf_" + "a" * 34, "AKIAIOSFODNN7EXAMPLE", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abc",
               "xoxb-123456789012-abcdefghij", "Bearer " + "0f" * 32, "glpat-abcdefghij0123456789",
               "-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----"],
}  # fmt: skip
HARMLESS = {
    "email": ["@user", "a @ b", "x@y", "user@", "3 @ 4.5", "a@.b", "@x.org"],
    "phone": ["2024-01-15", "2024-01-15 10:30", "15.01.2024", "15/01/2024 10:30", "1999-2004", "3.14159265",
              "3.1415926535", "0.123456789012", "12:34:56", "1234567", "1,000,000", "192.168.1.1", "10.20.30.40", "42"],
    "card": ["123456789012", "0.30000000000000004", "2024-01-15 10:30", "4111 1111"],
    "ip": ["1.2.3", "1.2.3.4.5", "12:34:56", "std::vector", "::", "a::vector", "00:1a:2b:3c:4d:5e"],
    "iban": ["AB12", "machine learning in 2024", "OF23 some words here next", "GPT4 is here with more text", "a" * 40],
    "secret": ["sklearn.linear_model.LogisticRegression", "skateboarding-championship", "pkg_resources.declare_space",
               "hf_hub_download", "hf_api.list_repo_files_all", "skepticism", "bearer of bad news"],
}  # fmt: skip


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in SENSITIVE.items() for text in texts])
def test_patterns_redact_sensitive_texts(name: str, text: str) -> None:
    for before, after in (("", ""), ("see ", " now"), ("(", ")."), ("\n", "\n"), ("my ", ", please")):
        assert REDACTORS[name](f"{before}{text}{after}") == f"{before}[{name}]{after}"
        assert text not in ALL_PATTERNS(f"{before}{text}{after}")


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in HARMLESS.items() for text in texts])
def test_patterns_leave_other_texts_unchanged(name: str, text: str) -> None:
    assert REDACTORS[name](f"see {text} now") == f"see {text} now"


@given(
    st.text(ALPHANUMERIC, min_size=1, max_size=30),
    st.lists(st.text(ALPHANUMERIC, min_size=1, max_size=20), min_size=2, max_size=4),
    BEFORE,
    AFTER,
)
def test_email_addresses_are_redacted(local: str, labels: list[str], before: str, after: str) -> None:
    address = f"{local}@{'.'.join(labels)}"
    assert REDACTORS["email"](f"{before}{address}{after}") == f"{before}[email]{after}"


@given(st.lists(st.integers(0, 255), min_size=4, max_size=4), BEFORE, AFTER)
def test_ipv4_addresses_are_redacted(parts: list[int], before: str, after: str) -> None:
    text = REDACTORS["ip"](f"{before}{'.'.join(map(str, parts))}{after}")
    assert text == f"{before}[ip]{after}"


@given(st.ip_addresses(v=6), st.booleans(), BEFORE, AFTER)
def test_ipv6_addresses_are_redacted(address: Any, whole: bool, before: str, after: str) -> None:
    text = address.exploded if whole else str(address)
    if text != "::":
        assert REDACTORS["ip"](f"{before}{text}{after}") == f"{before}[ip]{after}"


@given(st.text(DIGITS, min_size=13, max_size=19), SEPARATOR, BEFORE, AFTER)
def test_card_numbers_are_redacted(digits: str, separator: str, before: str, after: str) -> None:
    groups = separator.join(digits[start : start + 4] for start in range(0, len(digits), 4))
    assert REDACTORS["card"](f"{before}{groups}{after}") == f"{before}[card]{after}"


@given(st.text(DIGITS, min_size=8, max_size=14), SEPARATOR, BEFORE, AFTER)
def test_international_phone_numbers_are_redacted(digits: str, separator: str, before: str, after: str) -> None:
    groups = separator.join(digits[start : start + 3] for start in range(0, len(digits), 3))
    assert REDACTORS["phone"](f"{before}+{groups}{after}") == f"{before}[phone]{after}"


@given(
    st.text(st.characters(categories=["Lu"], max_codepoint=127), min_size=2, max_size=2),
    st.text(DIGITS, min_size=13, max_size=32), SEPARATOR, BEFORE, AFTER,
)  # fmt: skip
def test_ibans_are_redacted(country: str, digits: str, separator: str, before: str, after: str) -> None:
    account = country + digits
    groups = separator.join(account[start : start + 4] for start in range(0, len(account), 4))
    assert REDACTORS["iban"](f"{before}{groups}{after}") == f"{before}[iban]{after}"


@given(
    st.sampled_from(["sk-", "sk_live_", "ghp_", "github_pat_", "glpat-", "xoxb-", "hf_"]),
    st.text(ALPHANUMERIC, min_size=24, max_size=60),
    BEFORE,
    AFTER,
)
def test_secrets_are_redacted(prefix: str, rest: str, before: str, after: str) -> None:
    text = REDACTORS["secret"](f"{before}{prefix}{rest}{after}")
    assert rest not in text
    assert text.startswith(f"{before}[secret]")


@given(st.text(), st.sampled_from(sorted(PATTERNS)))
def test_redaction_is_idempotent(text: str, name: str) -> None:
    once = REDACTORS[name](text)
    assert REDACTORS[name](once) == once


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
        max_leaves=20,
    )
)
def test_values_without_matches_are_unchanged(value: Any) -> None:
    assert make_redactor(["regex:(?!)"])(value) == value
    assert make_redactor([])(value) is value


def test_nested_texts_are_redacted() -> None:
    value = {"messages": [{"role": "user", "content": "I am a@x.org"}], "b@x.org": ["c@x.org", 1, None]}
    cleaned = REDACTORS["email"](value)
    assert cleaned == {"messages": [{"role": "user", "content": "I am [email]"}], "[email]": ["[email]", 1, None]}


def test_rules_apply_in_order() -> None:
    assert make_redactor(["email", r"regex:\[email\]|secret word"])("a@x.org secret word") == "[redacted] [redacted]"


@pytest.mark.parametrize(
    "hostile",
    ["a", "1", "1 ", "12 ", "1.", ":", "a:", "AB12 ", "sk-", "eyJ.", '"', "+1", "(", "a@", "a@a.", "0 ",
     "-----BEGIN PRIVATE KEY-----"],
)  # fmt: skip
def test_adversarial_texts_are_redacted_in_time(hostile: str) -> None:
    text = hostile * (100_000 // len(hostile))
    started = time.perf_counter()
    for redactor in REDACTORS.values():
        redactor(text)
    assert time.perf_counter() - started < 60.0


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module with custom rules."""
    (tmp_path / "our_rules.py").write_text(
        "def shout(text): return text.upper()\n"
        "def fails(text): raise RuntimeError(text)\n"
        "def leaves(text): raise SystemExit(1)\n"
        "def nothing(text): return None\n"
        "def half(text): return '\\ud800'\n"
        "constant = 1\n",
        encoding="utf-8",
    )
    (tmp_path / "broken_rules.py").write_text("1 / 0\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "our_rules", raising=False)
    return "our_rules"


def test_custom_function(module: str) -> None:
    assert make_redactor([f"{module}:shout"])({"a": ["quiet"]}) == {"A": ["QUIET"]}


@pytest.mark.parametrize("rule", ["fails", "leaves", "nothing", "half"])
def test_failing_rule_leaks_no_text(module: str, rule: str, caplog: pytest.LogCaptureFixture) -> None:
    redact = make_redactor([f"{module}:{rule}"])
    for value in ("my secret", {"a": ["my secret", 1]}):
        with pytest.raises(RedactionError) as caught:
            redact(value)
        assert "my secret" not in str(caught.value)
    log = caplog.text
    assert log.count("a redaction rule failed") == 1
    assert "my secret" not in log


def test_hanging_regex_is_stopped_and_leaks_no_text() -> None:
    started = time.perf_counter()
    with pytest.raises(RedactionError):
        make_redactor(["regex:(a|aa)+$"])("a" * 100 + "b")
    assert time.perf_counter() - started < 60.0


@pytest.mark.parametrize(
    "rule",
    ["", "emial", "regex:", "regex:(", "nowhere:rule", "our_rules:nowhere", "our_rules:constant", "broken_rules:x"],
)
def test_unknown_and_invalid_rules_are_errors(module: str, rule: str) -> None:
    with pytest.raises(InputError, match="redaction rule"):
        make_redactor([rule])


def test_numbers_are_redacted_and_lists_of_numbers_are_counted() -> None:
    clean = make_redactor(("card",))
    assert clean({"card": 4111111111111111, "n": 3, "x": 0.5, "yes": True}) == {
        "card": "[card]",
        "n": 3,
        "x": 0.5,
        "yes": True,
    }
    assert clean({"prompt": [[31, 7, 9], [4, 4]]}) == {"prompt": ["[3 numbers]", "[2 numbers]"]}  # token ids
    assert make_redactor(())({"prompt": [31, 7, 9]}) == {"prompt": [31, 7, 9]}
