"""A session with an engine of this process: what a user enters, and what is shown and said."""

import json
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fledge.chat.lines import Entry
from fledge.chat.partner import EnginePartner
from fledge.chat.session import ChatConfig, Session, open_partner
from fledge.core.errors import FledgeError, InputError
from fledge.core.generation import GenerationParams
from fledge.core.settings import Workspace
from fledge.core.types import Message
from fledge.engines.engine import Engine
from fledge.engines.scripted import ScriptedEngine
from fledge.prompts.prompt import Draft, Prompt
from fledge.prompts.store import open_prompts


class Held:
    """A session whose ends are lists: `shown` for answers, `said` for what must be known, `hints` for the rest."""

    def __init__(self, config: ChatConfig, engine: Engine, prompt: Prompt | None = None) -> None:
        self.shown: list[str] = []
        self.said: list[str] = []
        self.hints: list[str] = []
        partner = EnginePartner(engine, "mine", prompt)
        self.session = Session(config, "mine", partner, self.shown.append, self.said.append, self.hints.append)

    def enter(self, *texts: str) -> str:
        """Enter lines one by one; what was shown for them."""
        self.shown.clear()
        for text in texts:
            assert self.session.handle(Entry(text))
        return "".join(self.shown)


@pytest.fixture
def config(workspace: Workspace) -> ChatConfig:
    return ChatConfig(tracking_uri=workspace.tracking_uri, state=workspace.state)


@pytest.fixture
def hold(config: ChatConfig) -> Callable[..., Held]:
    def held(engine: Engine | None = None, prompt: Prompt | None = None, **options: Any) -> Held:
        return Held(replace(config, **options), engine or ScriptedEngine(), prompt)

    return held


def _lines(prompt: str) -> str:
    """A script that answers with how many lines the prompt has."""
    return f"{len(prompt.splitlines())} lines"


def test_answers_come_piece_by_piece_and_the_conversation_goes_along(hold: Callable[..., Held]) -> None:
    held = hold(ScriptedEngine(_lines))
    assert held.enter("a?") == "1 lines\n"
    assert [piece for piece in held.shown if piece] == ["1 ", "lines", "\n"]
    assert held.enter("b?") == "3 lines\n"
    assert held.enter("/system Be brief.", "c?") == "6 lines\n"
    assert held.enter("/reset", "d?") == "2 lines\n"
    assert held.enter("/system", "/reset", "e?") == "1 lines\n"
    assert not held.session.handle(Entry("/exit"))
    assert held.said == []
    document = held.session.as_dict()
    assert document["target"] == "mine"
    assert [turn["content"] for turn in document["turns"] if turn["role"] == "user"] == ["a?", "b?", "c?", "d?", "e?"]


def test_white_space_before_an_answer_is_not_shown(hold: Callable[..., Held]) -> None:
    held = hold(ScriptedEngine(lambda _: "\n \n Yes, \n"))
    assert held.enter("a?") == "Yes, \n"
    assert hold(ScriptedEngine(lambda _: " ")).enter("a?") == "\n"


def test_the_real_model_answers_and_remembers(hold: Callable[..., Held], embedded_engine: Engine) -> None:
    held = hold(embedded_engine)
    assert held.enter("What is machine learning?").startswith("Machine learning is ")
    assert len([piece for piece in held.shown if piece]) > 10
    alone = embedded_engine.submit([Message("user", "What is MLOps?")], GenerationParams()).result().text
    assert held.enter("What is MLOps?").strip() != ""
    assert held.enter("/reset", "What is MLOps?") == f"{alone.strip()}\n"


def test_what_does_not_fit_the_window_is_told_once(hold: Callable[..., Held], embedded_engine: Engine) -> None:
    held = hold(embedded_engine, generation=GenerationParams(max_tokens=8, ignore_eos=True))
    held.enter("old words " * 150)
    cut = "(the answer was cut at the token limit; --max-tokens N raises it)"
    assert held.said == [cut]
    held.said.clear()
    held.enter("other words " * 150)
    assert held.said[1:] == [
        "(the 2 oldest turns were left out: the model's window is full; /reset starts a new conversation)"
    ]
    held.said.clear()
    with pytest.raises(InputError, match="tokens; the model takes 512"):
        held.enter("words " * 1000)
    assert len(held.session.dialogue.turns) == 4  # what failed is not remembered
    held.enter("/reset", "short")
    assert held.said == [cut]


def test_an_interrupted_answer_is_remembered_as_far_as_it_came(hold: Callable[..., Held]) -> None:
    for pieces, remembered in ((0, "one "), (2, "one two three ")):
        held = hold(ScriptedEngine(lambda _: "one two three four"))

        def show(text: str, shown: list[str] = held.shown, pieces: int = pieces) -> None:
            if len([piece for piece in shown if piece]) == pieces and text.strip():
                raise KeyboardInterrupt  # as it is where Ctrl-C meets us while we print
            shown.append(text)

        held.session._show = show
        with pytest.raises(KeyboardInterrupt):
            held.enter("count")
        _, answer = held.session.dialogue.turns
        assert (answer.content, answer.finish_reason) == (remembered, "cancelled")
        assert held.shown[-1] == "\n"


def test_an_answer_that_was_interrupted_before_it_began_is_not_remembered(hold: Callable[..., Held]) -> None:
    held = hold()

    def show(_: str) -> None:
        raise KeyboardInterrupt

    held.session._show = show
    with pytest.raises(KeyboardInterrupt):
        held.enter("count")
    assert held.session.dialogue.turns == []


def test_leaving_an_answer_stops_the_engine(embedded_engine: Engine) -> None:
    partner = EnginePartner(embedded_engine, "mine")
    before = embedded_engine.stats().generated_tokens
    parts = partner.ask([Message("user", "Go on.")], {"max_tokens": 480, "ignore_eos": True})
    while not next(parts).text:
        pass
    parts.close()
    embedded_engine.submit("Question: over?\nAnswer:", GenerationParams(max_tokens=2)).result()
    stats = embedded_engine.stats()
    assert stats.running == 0
    assert stats.generated_tokens - before < 400


def test_prompts_of_the_registry(hold: Callable[..., Held], config: ChatConfig) -> None:
    store = open_prompts(workspace=config)
    store.register(Draft("two", "{{topic}}: {{question}}"))
    store.register(
        Draft("short", "{{text}} In short:\n{{text}}", settings={"max_tokens": 2, "stop_sequences": ["END"]})
    )
    store.set_alias("short", "live", 1)
    held = hold(ScriptedEngine(lambda prompt: prompt.replace("\n", "|")))
    assert held.enter("/prompt simple", "a?") == "Question: a?|Answer:\n"
    assert held.hints[-1] == "questions are filled into simple/1; /prompt alone turns that off"
    assert held.enter("/reset", "/prompt short@live", "b?") == "b? In\n"  # two words, as the prompt's settings say
    with pytest.raises(InputError, match=r"prompt two/1 has the variables topic, question; a session fills in one"):
        held.enter("/prompt two/1")
    with pytest.raises(InputError, match="no prompt 'nowhere'"):
        held.enter("/prompt nowhere")
    assert held.session.dialogue.prompt is not None  # what was there stays
    assert held.enter("/reset", "/prompt", "c?") == "c?\n"


def test_a_release_is_asked_by_its_own_prompt_unless_another_is_chosen(
    hold: Callable[..., Held], config: ChatConfig
) -> None:
    engine = ScriptedEngine(lambda prompt: prompt.replace("\n", "|"))
    held = hold(engine, prompt=Prompt("qa", 2, "Q: {{question}}\nA:"))
    assert held.enter("a?") == "Q: a?|A:\n"
    assert held.enter("b?") == "a?|Q: a?|A:|Q: b?|A:\n"  # the question before stands as it was asked
    assert held.enter("/reset", "/prompt simple", "c?") == "Question: c?|Answer:\n"
    open_prompts(workspace=config).register(Draft("told", "{{question}}", system="Be kind."))
    assert held.enter("/reset", "/prompt told", "c?") == "Be kind.|c?\n"
    held.enter("/reset", "/prompt simple", "c?")
    assert held.enter("/reset", "/prompt", "d?") == "d?\n"
    prompts = [turn["prompt"] for turn in held.session.as_dict()["turns"] if turn["role"] == "user"]
    assert prompts == ["qa/2", "qa/2", "simple/1", "told/1", "simple/1", None]

    two = hold(engine, prompt=Prompt("two", 1, "{{topic}}: {{question}}"))
    with pytest.raises(InputError, match="prompt two/1 needs values for topic, question") as caught:
        two.enter("a?")
    assert caught.value.hint == "/prompt asks the questions as they are"
    assert two.enter("/prompt", "a?") == "a?\n"


def test_save(hold: Callable[..., Held], workspace: Workspace) -> None:
    held = hold()
    with pytest.raises(InputError, match="the conversation is empty"):
        held.enter("/save talk.jsonl")
    held.enter("/system Loud.", "hello there", "/save talk.jsonl", "/save my talk.MD")
    talk = Path("talk.jsonl")
    assert [json.loads(line) for line in talk.read_text().splitlines()] == [
        {"role": "system", "content": "Loud."},
        {"role": "user", "content": "hello there"},
        {"role": "assistant", "content": "HELLO THERE"},
    ]
    assert Path("my talk.MD").read_text().startswith("# Conversation with mine\n\n### system\n\nLoud.\n")
    assert {stat.S_IMODE(path.stat().st_mode) for path in (talk, Path("my talk.MD"))} == {0o600}
    before = talk.read_text()
    held.enter("more")
    with pytest.raises(InputError) as caught:
        held.enter("/save talk.jsonl")
    assert (caught.value.message, caught.value.hint) == ("talk.jsonl already exists", "/save --overwrite talk.jsonl")
    assert talk.read_text() == before
    held.enter("/save --overwrite talk.jsonl")
    assert len(talk.read_text().splitlines()) == 5
    assert stat.S_IMODE(talk.stat().st_mode) == 0o600
    with pytest.raises(InputError, match="/save needs FILE"):
        held.enter("/save --overwrite")
    for place in ("no/such/folder.md", "/save --overwrite .", "a\0b", "~nobody-of-this-name/x"):
        with pytest.raises(InputError, match=r"cannot be written|already exists"):
            held.enter(place if place.startswith("/save") else f"/save {place}")
    assert sorted(path.name for path in Path.cwd().iterdir()) == [".fledge", "mlflow.db", "my talk.MD", "talk.jsonl"]


def test_feedback_needs_an_endpoint(hold: Callable[..., Held]) -> None:
    held = hold()
    with pytest.raises(InputError, match="there is no answer yet"):
        held.enter("/good")
    held.enter("hello")
    with pytest.raises(InputError, match="feedback needs a fledge endpoint") as caught:
        held.enter("/bad dull")
    assert "fledge serve" in caught.value.hint


def test_help_and_a_system_text_of_the_settings(hold: Callable[..., Held]) -> None:
    held = hold(ScriptedEngine(_lines), system="Be brief.")
    held.enter("/help")
    assert "/prompt [NAME]" in held.said[0]
    assert held.enter("a?") == "2 lines\n"


def test_settings_that_were_chosen_and_those_that_were_not(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ChatConfig.load().settings == {}
    monkeypatch.setenv("FLEDGE_TOP_P", "0.5")
    config = ChatConfig.load({"temperature": 0.0, "stop": "a,b", "seed": None})
    assert config.settings == {"temperature": 0.0, "top_p": 0.5, "stop": ("a", "b")}
    assert ChatConfig(generation=GenerationParams(max_tokens=5)).settings == {"max_tokens": 5}


def test_nobody_answers_under_a_name(config: ChatConfig) -> None:
    for target in ("no/such/folder", "http://[::1", "http://me:secret@127.0.0.1:1/v1", "nobody@champion"):
        with pytest.raises(FledgeError) as caught:
            open_partner(config, target)
        assert caught.value.hint
    with pytest.raises(InputError, match="the engine openvino cannot run a URL"):
        open_partner(replace(config, engine="openvino"), "http://127.0.0.1:1")
