from pathlib import Path

import pytest
from tokenizers import Tokenizer

from fledge.bench.measured_models import Around, find_models
from fledge.core.errors import InputError
from fledge.core.settings import Workspace


def test_the_tokens_around_a_message_come_from_the_chat_template(chat_model: Path, workspace: Workspace) -> None:
    notes: list[str] = []
    (found,) = find_models(str(chat_model), workspace, notes.append, notes)
    assert found.describe() == {
        "name": "small-chat",
        "source": str(chat_model),
        "parameters": 2271360,
        "prompts": "chat",
    }
    tokenizer = Tokenizer.from_file(str(chat_model / "tokenizer.json"))
    assert tokenizer.decode(list(found.around.before)) == "Human:"
    assert tokenizer.decode(list(found.around.after)) == "\nAssistant:"
    assert notes == []


def test_a_model_without_a_template_gets_text(workspace: Workspace) -> None:
    (found,) = find_models("embedded", workspace, lambda _: None, [])
    assert (found.name, found.chat, found.around) == ("embedded", False, Around())


def test_a_missing_model_is_an_error(workspace: Workspace) -> None:
    with pytest.raises(InputError, match="no model"):
        find_models("nowhere", workspace, lambda _: None, [])
