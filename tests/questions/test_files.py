import codecs
import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fledge.core.errors import InputError
from fledge.questions.files import jsonl, read_file, write_file
from fledge.questions.question_set import Question, QuestionSet, default_questions
from fledge.questions.rows import describe_notes
from fledge.questions.sources import read, read_questions

ROWS = "\n".join(json.dumps({"id": f"q{n}", "question": f"What is {n}?", "reference": str(n)}) for n in range(1, 7))

BAD = [
    ("missing.jsonl", None, "does not exist"),
    ("empty.jsonl", b"", "no questions"),
    ("blank.jsonl", b"\n \n", "no questions"),
    ("header.csv", b"question\n", "no questions"),
    ("empty.yaml", b"", "no questions"),
    ("mixed.jsonl", '{"question": "caf\xe9"}\n'.encode() + b'{"question": "caf\xe9"}', "line 2: not UTF-8"),
    (
        "greek.csv",
        "question\n\u03c4\u03b9 \u03b5\u03af\u03bd\u03b1\u03b9 \u03b1\u03c5\u03c4\u03cc;\n".encode("cp1253"),
        "line 2: not UTF-8",
    ),
    ("column.jsonl", b'{"query": "What?"}', "line 1: no column 'question', only 'query'"),
    ("column.csv", b"id,query\n1,What?\n", "line 2: no column 'question', only 'id', 'query'"),
    ("twice.jsonl", ROWS.encode() + b'\n{"id": "q3", "question": "Again?"}', "line 7: id 'q3' is also on line 3"),
    ("same.jsonl", b'{"question": "What?"}\n{"question": "What?"}', "line 2: the same question as on line 1"),
    ("broken.jsonl", ROWS.encode() + b'\n{"question": "What?"', "line 7: not JSON at column 21"),
    ("open.csv", b'id,question\n1,a?\n2,"open\n3,c?\n', "line 3: the double quote opened here is never closed"),
    ("open-later.csv", b'id,question,x\n1,"a\n?","b\n2,c,d\n', "line 3: the double quote opened here is never closed"),
    ("open-header.csv", b'id,"question\n1,a?\n', "line 1: the double quote opened here is never closed"),
    ("closed.csv", b'id,question\n1,a?\n2,"b" c\n', "line 3: text follows the closing quote of the field"),
    ("long-open.csv", b'id;question\n1;"a' + b"\nb" * 300_000, "line 2: the double quote opened here is never closed"),
    ("short.csv", b"id,question\n1,a?\n2\n", "line 3: fewer columns than the header"),
    ("long.csv", b"id,question\n1,a?\n2,b?,c\n", "line 3: more columns than the header"),
    ("unnamed.csv", b"question,,\na?,,\nb?,,c\n", "line 3: a value in a column without a name"),
    ("odd.csv", codecs.BOM_UTF16_LE + "question\na?".encode("utf-16-le") + b"b", "line 2: damaged UTF-16"),
    ("broken.yaml", b"- question: a?\n- question: [b\n", "line 3: not YAML"),
    ("scalar.yaml", b"question: a?\n", "line 1: not a list"),
    ("item.yaml", b"- question: a?\n- b?\n", "line 2: not an entry with a question"),
    ("array.jsonl", b'["What?"]', "line 1: a list, not an object"),
    ("blank-question.jsonl", b'{"question": "  "}', "line 1: the question is empty"),
    ("kind.txt", b"What?", "unsupported question file"),
]


@pytest.mark.parametrize(("name", "content", "problem"), BAD, ids=[name for name, _, _ in BAD])
def test_errors_name_file_line_and_fix(tmp_path: Path, name: str, content: bytes | None, problem: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_questions(str(path))
    assert str(path) in caught.value.message
    assert problem in f"{caught.value.message} {caught.value.hint}"
    assert caught.value.hint


def test_three_formats_give_the_same_set(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('\ufeff{"id": "1", "question": "What, then?", "reference": "x", "level": 2}\n\n')
    (tmp_path / "a.csv").write_text('id,question,reference,level\n1,"What, then?",x,2\n')
    (tmp_path / "a.yaml").write_text("- id: 1\n  question: What, then?\n  reference: x\n  level: 2\n")
    sets = [read_questions(str(tmp_path / f"a.{kind}")).questions for kind in ("jsonl", "csv", "yaml")]
    assert sets[0] == sets[1] == sets[2]
    assert sets[0][0].variables == {"question": "What, then?", "level": "2"}


def test_ids_are_optional_and_stable(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"question": "One?"}\n{"question": "Two?"}\n')
    first, second = read_questions(str(path)).questions
    path.write_text('{"question": "Two?"}\n')
    assert first.id != second.id
    assert read_questions(str(path)).questions[0].id == second.id


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", '{"question": "fine"}\n{"question": "bad \\u0000 one"}\n'),
        ("a.csv", "question\nfine\nbad \0 one\n"),
        ("a.yaml", '- question: fine\n- question: "bad \\0 one"\n'),
    ],
)
def test_a_nul_character_is_rejected(tmp_path: Path, name: str, content: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(InputError, match=rf"{name}, line [23]: .*NUL"):
        read_questions(str(path))


def test_an_unpaired_surrogate_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"question": "fine \\ud83d\\ude00"}\n{"question": "why?", "reference": "bad \\ud83d one"}\n')
    with pytest.raises(InputError, match=r"a.jsonl, line 2: an unpaired surrogate in 'reference'"):
        read_questions(str(path))


def test_any_script_is_accepted(tmp_path: Path) -> None:
    texts = ["What is 😀?", "מה זה למידת מכונה?", "ما هو التعلم الآلي؟", "a\u202eb", "👩‍👩‍👧‍👦", "e\u0301"]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"question": text}) + "\n" for text in texts))
    assert [item.question for item in read_questions(str(path)).questions] == texts


ALL_WRONG = {
    "a.jsonl": """{"question": "a?"}
{"question": "b?"
["c?"]
{"question": ["d?"]}
{"question": "a?"}
{"query": "e?"}
{"question": "", "id": "f"}
""",
    "a.csv": """id,question
1,a?
2
"3"x,b?
1,c?
5,
""",
    "a.yaml": """- question: a?
- b?
- question: c?
  question: d?
- &same {question: e?}
- *same
- question: {text: f?}
- question: a?
""",
}
WHERE = {"a.jsonl": [2, 3, 4, 5, 6, 7], "a.csv": [3, 4, 5, 6], "a.yaml": [2, 4, 6, 7, 8]}


@pytest.mark.parametrize("name", list(ALL_WRONG))
def test_all_problems_are_listed_with_their_lines(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text(ALL_WRONG[name])
    reading = read(path)
    assert [error.line for error in reading.errors] == WHERE[name]
    assert all(error.message and error.hint for error in reading.errors)
    with pytest.raises(InputError, match=rf"line {WHERE[name][0]}: .* \(and {len(WHERE[name]) - 1} more\)") as caught:
        read_questions(path)
    assert f"fledge questions validate {path}" in caught.value.hint


def test_lines_that_are_not_utf8_are_reported_and_the_others_read(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("id,question\n1,caf\xe9?\n2,b?\n3,\xfc?\n,\n".encode("latin-1") + "4,na\xefve?\n".encode())
    assert [(error.line, error.kind) for error in read(path).errors] == [(2, "encoding"), (4, "encoding"), (5, "empty")]


@pytest.mark.parametrize(
    ("content", "note"),
    [
        ("id,question\n1,Où est le café\u202f?\n".encode(), None),
        (codecs.BOM_UTF8 + "id;question\n1;Où est le café\u202f?\n".encode(), "columns separated by semicolons"),
        ("id\tquestion\n1\tOù est le café\u202f?\n".encode("utf-16"), "read as UTF-16; columns separated by tabs"),
        (codecs.BOM_UTF16_BE + "id|question\n1|Où est le café\u202f?\n".encode("utf-16-be"), "separated by '|'"),
        ("id,question\n1,Où est le café\u202f?\n".replace("\u202f", "\xa0").encode("cp1252"), "as 'Où' on line 2"),
        (" id , question \n1,Où est le café\u202f?\n".encode(), None),
    ],
)
def test_encodings_separators_and_padded_headers_are_recognised(
    tmp_path: Path, content: bytes, note: str | None
) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    reading = read(path)
    (item,) = reading.question_set().questions
    assert (item.id, item.question.replace("\xa0", "\u202f")) == ("1", "Où est le café\u202f?")
    said = describe_notes("a.csv", reading.notes)
    assert said.startswith("a.csv: ")
    assert (note in said) if note else not reading.notes


def test_other_separators_in_a_question_are_text(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("question\nfirst; then|now?\n")
    assert [item.question for item in read_questions(path).questions] == ["first; then|now?"]


@pytest.mark.parametrize(
    ("name", "content", "hint"),
    [
        ("a.json", '[{"question": "a?"}]', "as .jsonl: jq"),
        ("a.jsonl", '[\n  {"question": "a?"}\n]', "jq -c"),
        ("a.parquet", "", "save it again as Parquet or JSONL"),
        ("a.csv", "id,Question\n1,a?\n", "--columns question=Question"),
        ("a.csv", "id;Best Question\n1;a?\n", "--columns question=COLUMN"),
        ("a.jsonl", '{"prompt": "a?"}', "--columns question=prompt"),
        ("a.csv", "question,question\na?,b?\n", "a unique name"),
        ("a.jsonl", '{"question": "a?", "reference": ["b", "c"]}', "--columns reference=reference.0"),
        ("a.jsonl", "[" * 100_000, "jq -c"),
        ("a.jsonl", '{"question": ' + "[" * 100_000, "one JSON object a line"),
        ("a.jsonl", '{"question": ' + "1" * 5000 + "}", "one JSON object a line"),
        ("a.yaml", "- question: " + "[" * 2000, "write a list of entries"),
        ("a.yaml", "- question: a?\n---\n- question: b?\n", "write one list"),
        ("a.yaml", "- ? [a]\n  : b\n", "write a list of entries"),
    ],
)
def test_errors_have_a_hint(tmp_path: Path, name: str, content: str, hint: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError) as caught:
        read_questions(tmp_path / name)
    assert hint in caught.value.hint


def test_yaml_scalars_stay_text(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(
        "- question: Is it so?\n  reference: yes\n  day: 2024-01-01\n  number: 1.50\n  none: ~\n  é: [a, 1]\n"
    )
    (item,) = read_questions(path).questions
    assert item.reference == "yes"
    assert item.columns == {"day": "2024-01-01", "number": "1.50", "none": "", "é": "[a, 1]"}


def test_json_values_become_text(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"question": 1, "reference": true, "a": {"é": [1]}, "b": null, "c": 2.0, "d": NaN}\n')
    (item,) = read_questions(path).questions
    assert (item.question, item.reference) == ("1", "true")
    assert item.columns == {"a": '{"é": [1]}', "b": "", "c": "2.0", "d": ""}


_TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
_NAMES = st.sampled_from(["level", "a b", "ö", "null", "1"])


@st.composite
def sets(draw: st.DrawFn) -> QuestionSet:
    """Random question sets in which all rows have the same columns."""
    ids = draw(st.lists(_TEXTS.map(str.strip).filter(bool), min_size=1, max_size=5, unique=True))
    names = draw(st.lists(_NAMES, unique=True, max_size=3))
    return QuestionSet("any", tuple(_question(draw, identity, names) for identity in ids))


def _question(draw: st.DrawFn, identity: str, names: list[str]) -> Question:
    text = draw(_TEXTS.filter(lambda text: bool(text.strip())))
    columns = {name: draw(_TEXTS) for name in names}
    return Question(identity, text, draw(_TEXTS) or None, draw(_TEXTS), draw(_TEXTS), columns)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".yaml"])
@given(questions=sets())
def test_round_trip_through_a_file(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, questions: QuestionSet
) -> None:
    path = tmp_path_factory.mktemp("written") / f"a{suffix}"
    write_file(questions, path)
    again = read_questions(path)
    assert again.questions == questions.questions
    assert again.digest == questions.digest


def test_existing_file_needs_overwrite(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("mine")
    with pytest.raises(InputError, match="already exists"):
        write_file(default_questions(), path)
    assert path.read_text() == "mine"
    write_file(default_questions(), path, overwrite=True)
    assert path.read_text(encoding="utf-8") == jsonl(default_questions())
    with pytest.raises(InputError, match="cannot be written"):
        write_file(default_questions(), tmp_path / "nowhere" / "a.csv")
    with pytest.raises(InputError, match="unsupported question file"):
        write_file(default_questions(), tmp_path / "a.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".yaml"])
def test_a_hundred_thousand_questions_take_seconds(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    rows = (Question(f"q{n}", f"What is {n}, and why?", "because " * 20, f"t{n % 30}") for n in range(100_000))
    write_file(QuestionSet("many", tuple(rows)), path)
    started = time.process_time()
    assert len(read_questions(path).questions) == 100_000
    assert time.process_time() - started < 15  # 2 s on a quiet machine of 2026


def test_a_duplicate_name_in_an_object_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text('{"question": "a?", "question": "b?"}\n')
    with pytest.raises(InputError, match="'question' twice in one object"):
        read_file(path).question_set()


def test_overwriting_keeps_file_permissions(tmp_path: Path) -> None:
    path, link = tmp_path / "q.csv", tmp_path / "link.csv"
    path.write_text("")
    path.chmod(0o600)
    link.symlink_to(path)
    write_file(QuestionSet("x", (Question("1", "a?"),)), link, overwrite=True)
    assert path.stat().st_mode & 0o777 == 0o600
    assert link.is_symlink()
    assert len(read_file(path).questions) == 1
    with pytest.raises(InputError, match="cannot be written"):
        write_file(QuestionSet("x", (Question("1", "a?"),)), tmp_path / f"{'x' * 300}.csv")


def test_long_csv_fields_are_read(tmp_path: Path) -> None:
    path = tmp_path / "q.csv"
    path.write_text(f"question\n{'a' * 150_000}?\n")
    assert len(read_file(path).questions[0].question) == 150_001
