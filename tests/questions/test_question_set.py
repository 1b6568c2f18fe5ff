import json
from pathlib import Path

import pytest

from fledge.core.errors import InputError
from fledge.questions.question_set import default_questions
from fledge.questions.sources import read_questions

ROWS = "\n".join(json.dumps({"id": f"q{n}", "question": f"What is {n}?", "reference": str(n)}) for n in range(1, 7))

BAD = [
    ("missing.jsonl", None, "there is no such file"),
    ("empty.jsonl", b"", "no questions in it"),
    ("blank.jsonl", b"\n \n", "no questions in it"),
    ("header.csv", b"question\n", "no questions in it"),
    ("empty.yaml", b"", "no questions in it"),
    ("latin.jsonl", ROWS.encode() + '\n{"question": "caf\xe9"}'.encode("latin-1"), "line 7: not UTF-8"),
    ("column.jsonl", b'{"query": "What?"}', "line 1: no column 'question', only 'query'"),
    ("column.csv", b"id,query\n1,What?\n", "line 2: no column 'question', only 'id', 'query'"),
    ("twice.jsonl", ROWS.encode() + b'\n{"id": "q3", "question": "Again?"}', "line 7: id 'q3' is also on line 3"),
    ("same.jsonl", b'{"question": "What?"}\n{"question": "What?"}', "line 2: the same question as on line 1"),
    ("broken.jsonl", ROWS.encode() + b'\n{"question": "What?"', "line 7, column 21: not JSON"),
    ("broken.csv", b"id,question\n" + b"1,a?\n" * 1 + b'2,"open\n', "close every double quote"),
    ("short.csv", b"id,question\n1,a?\n2\n", "line 3: fewer columns than the first line"),
    ("long.csv", b"id,question\n1,a?\n2,b?,c\n", "line 3: more columns than the first line"),
    ("broken.yaml", b"- question: a?\n- question: [b\n", "line 3: not YAML"),
    ("scalar.yaml", b"question: a?\n", "line 1: not a list"),
    ("item.yaml", b"- question: a?\n- b?\n", "line 2: not an entry with a question"),
    ("array.jsonl", b'["What?"]', "line 1: not an object"),
    ("blank-question.jsonl", b'{"question": "  "}', "line 1: the question is empty"),
    ("kind.txt", b"What?", "not a kind of question file"),
]


@pytest.mark.parametrize(("name", "content", "problem"), BAD, ids=[name for name, _, _ in BAD])
def test_bad_files_are_refused_with_file_line_and_fix(
    tmp_path: Path, name: str, content: bytes | None, problem: str
) -> None:
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


def test_default_set_is_large_and_split() -> None:
    questions = default_questions()
    answers = {item.reference for item in questions.questions}
    topics = {item.topic for item in questions.questions}
    assert len(answers) >= 300
    assert len(topics) >= 10
    texts: dict[str, set[str]] = {item.split: set() for item in questions.questions}
    for item in questions.questions:
        texts[item.split].add(item.question.casefold())
    assert set(texts) == {"train", "test"}
    assert not texts["train"] & texts["test"]
    assert len(texts["train"]) + len(texts["test"]) == len(questions.questions)


def test_sample_is_even_over_topics_and_seeded() -> None:
    held_out = default_questions().only("test")
    sample = held_out.sample(12, seed=3)
    assert len({item.topic for item in sample.questions}) == 12
    assert sample == held_out.sample(12, seed=3)
    assert sample != held_out.sample(12, seed=4)
    assert len(held_out.sample(10**6).questions) == len(held_out.questions)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", '{"question": "fine"}\n{"question": "bad \\u0000 one"}\n'),
        ("a.csv", "question\nfine\nbad \0 one\n"),
        ("a.yaml", '- question: fine\n- question: "bad \\0 one"\n'),
    ],
)
def test_a_nul_character_is_refused(tmp_path: Path, name: str, content: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(InputError, match=rf"{name}, line [23]: .*NUL"):
        read_questions(str(path))


def test_half_of_a_surrogate_pair_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"question": "fine \\ud83d\\ude00"}\n{"question": "why?", "reference": "bad \\ud83d one"}\n')
    with pytest.raises(InputError, match=r"a.jsonl, line 2: half of a surrogate pair in 'reference'"):
        read_questions(str(path))


def test_any_script_is_welcome(tmp_path: Path) -> None:
    texts = ["What is 😀?", "מה זה למידת מכונה?", "ما هو التعلم الآلي؟", "a\u202eb", "👩‍👩‍👧‍👦", "e\u0301"]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"question": text}) + "\n" for text in texts))
    assert [item.question for item in read_questions(str(path)).questions] == texts
