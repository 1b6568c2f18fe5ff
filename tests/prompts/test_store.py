import pytest

from fledge.core.errors import InputError
from fledge.core.settings import Workspace
from fledge.prompts._mlflow import list_prompts, load_prompt, load_prompts, register_prompt
from fledge.tracking._mlflow import connect


def test_an_unchanged_text_makes_no_new_version(workspace: Workspace) -> None:
    client = connect(workspace.tracking)
    assert register_prompt(client, "mine", "Q: {{question}}").version == 1
    assert register_prompt(client, "mine", "Q: {{question}}").version == 1
    assert register_prompt(client, "mine", "Question: {{question}}").version == 2
    assert load_prompt(client, "mine").version == 2
    assert load_prompt(client, "mine/1").template == "Q: {{question}}"


def test_alias(workspace: Workspace) -> None:
    client = connect(workspace.tracking)
    register_prompt(client, "mine", "Q: {{question}}")
    register_prompt(client, "mine", "Question: {{question}}")
    client.set_prompt_alias("mine", "good", 1)
    assert load_prompt(client, "mine@good").version == 1


def test_default_prompts_appear_when_first_used(workspace: Workspace) -> None:
    client = connect(workspace.tracking)
    assert list_prompts(client) == []
    assert [prompt.label for prompt in load_prompts(client, ["simple", "expert"])] == ["simple/1", "expert/1"]
    assert [prompt.name for prompt in list_prompts(client)] == ["expert", "simple"]


@pytest.mark.parametrize("name", ["nothing", "simple/7", "simple@nobody"])
def test_unknown_prompt(workspace: Workspace, name: str) -> None:
    with pytest.raises(InputError, match=f"no prompt '{name}'"):
        load_prompt(connect(workspace.tracking), name)


def test_a_prompt_named_twice(workspace: Workspace) -> None:
    with pytest.raises(InputError, match="prompt named twice: simple"):
        load_prompts(connect(workspace.tracking), ["simple", "simple"])
