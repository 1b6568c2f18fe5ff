import json
import shutil
from pathlib import Path

import pytest

from fledge.core.errors import InputError
from fledge.models import snapshot


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the embedded model."""
    target = tmp_path / "model"
    shutil.copytree(snapshot.resolve("embedded").path, target)
    return target


def test_the_digest_depends_on_content_only(folder: Path) -> None:
    original = snapshot.resolve("embedded")
    copy = snapshot.resolve(str(folder))
    assert copy.digest == original.digest
    (folder / "config.json").write_text((folder / "config.json").read_text() + "\n")
    assert snapshot.resolve(str(folder)).digest != original.digest


def test_the_embedded_model_is_small_and_complete() -> None:
    model = snapshot.resolve("embedded")
    assert model.architecture == "GPT2LMHeadModel"
    assert model.size <= 12_000_000
    assert model.licence == "apache-2.0"
    assert 1_000_000 < model.parameters < 5_000_000
    assert (model.vocabulary, model.context, model.end_tokens) == (2048, 512, (0,))
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= set(model.files)


def test_pickled_weights_are_not_part_of_the_snapshot(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"\x80")
    assert snapshot.resolve(str(folder)).digest == snapshot.resolve("embedded").digest


def test_a_url_is_refused() -> None:
    with pytest.raises(InputError, match="is a URL"):
        snapshot.resolve("http://127.0.0.1:1/v1#name")


@pytest.mark.parametrize("name", ["nothing", "~/no/such/folder", "~nobody-of-this-name/model", "a" * 5000, "a\0b"])
def test_an_unknown_model_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="no model '") as caught:
        snapshot.resolve(name)
    assert caught.value.hint


def test_a_chat_template_is_detected_in_every_file(folder: Path) -> None:
    assert not snapshot.resolve(str(folder)).has_chat_template
    config = json.loads((folder / "tokenizer_config.json").read_text())

    def has_template(name: str, content: str) -> bool:
        (folder / name).write_text(content)
        found = snapshot.resolve(str(folder)).has_chat_template
        (folder / name).unlink()
        return found

    named = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": "y"}]
    assert has_template("chat_template.jinja", "{{ messages }}")
    assert has_template("chat_template.json", json.dumps({"chat_template": "x"}))
    assert has_template("tokenizer_config.json", json.dumps({**config, "chat_template": "x"}))
    assert has_template("tokenizer_config.json", json.dumps({**config, "chat_template": named}))
    assert not has_template("tokenizer_config.json", json.dumps({**config, "chat_template": named[:1]}))
    assert not has_template("chat_template.jinja", "")
    for name, content, problem in (
        ("tokenizer_config.json", b"[]", r"tokenizer_config\.json is not a JSON object"),
        ("chat_template.json", b'{"chat_template": 5}', "chat_template"),
        ("chat_template.jinja", b"\xff", r"chat_template\.jinja is not UTF-8 text"),
    ):
        before = (folder / name).read_bytes() if (folder / name).exists() else b""
        (folder / name).write_bytes(content)
        with pytest.raises(InputError, match=problem):
            snapshot.resolve(str(folder))
        (folder / name).write_bytes(before) if before else (folder / name).unlink()


def test_end_tokens_come_from_the_generation_config_first(folder: Path) -> None:
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 0]}))
    assert snapshot.resolve(str(folder)).end_tokens == (7, 0)
    (folder / "generation_config.json").unlink()
    assert snapshot.resolve(str(folder)).end_tokens == (0,)


def test_licence_from_a_file(folder: Path) -> None:
    (folder / "README.md").write_text("A model without front matter")
    (folder / "LICENSE").write_text("\nMIT License\n\nPermission is hereby granted")
    assert snapshot.resolve(str(folder)).licence == "MIT License"


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: mit\n---\nlicense: other", "mit"),
        ("---\ntags:\n- x\nlicense: 'cc-by-4.0'\n---\n", "cc-by-4.0"),
        ("---\nlicense:\ntags:\n- x\n---\n", ""),
        ("Of the\nlicense: nothing is said here", ""),
    ],
)
def test_licence_from_a_card(folder: Path, card: str, licence: str) -> None:
    (folder / "README.md").write_text(card)
    assert snapshot.resolve(str(folder)).licence == licence


def test_a_licence_is_made_printable(folder: Path) -> None:
    (folder / "README.md").write_text("---\nlicense: \x1b[2Jmit\n---\n")
    assert snapshot.resolve(str(folder)).licence.isprintable()
