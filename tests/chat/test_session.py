"""Sessions with an engine in this process: entries, answers and messages."""

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


class Console:
    """A session with its output: `shown` for answers, `said` for messages, `hints` for optional notes."""

    def __init__(self, config: ChatConfig, engine: Engine, prompt: Prompt | None = None) -> None:
        self.shown: list[str] = []
        self.said: list[str] = []
        self.hints: list[str] = []
        partner = EnginePartner(engine, "mine", prompt)
        self.session = Session(config, "mine", partner, self.shown.append, self.said.append, self.hints.append)

    def enter(self, *texts: str) -> str:
        """Enter lines one by one and return what was shown for them."""
        self.shown.clear()
        for text in texts:
            assert self.session.handle(Entry(text))
        return "".join(self.shown)


@pytest.fixture
def config(workspace: Workspace) -> ChatConfig:
    return ChatConfig(tracking_uri=workspace.tracking_uri, state=workspace.state)


@pytest.fixture
def start(config: ChatConfig) -> Callable[..., Console]:
    def start_console(engine: Engine | None = None, prompt: Prompt | None = None, **options: Any) -> Console:
        return Console(replace(config, **options), engine or ScriptedEngine(), prompt)

    return start_console


def _count_lines(prompt: str) -> str:
    """Answer with the number of lines of the prompt."""
    return f"{len(prompt.splitlines())} lines"


def test_answers_are_streamed_and_the_conversation_is_sent(start: Callable[..., Console]) -> None:
    console = start(ScriptedEngine(_count_lines))
    assert console.enter("a?") == "1 lines\n"
    assert [piece for piece in console.shown if piece] == ["1 ", "lines", "\n"]
    assert console.enter("b?") == "3 lines\n"
    assert console.enter("/system Be brief.", "c?") == "6 lines\n"
    assert console.enter("/reset", "d?") == "2 lines\n"
    assert console.enter("/system", "/reset", "e?") == "1 lines\n"
    assert not console.session.handle(Entry("/exit"))
    assert console.said == []
    document = console.session.as_dict()
    assert document["target"] == "mine"
    assert [turn["content"] for turn in document["turns"] if turn["role"] == "user"] == ["a?", "b?", "c?", "d?", "e?"]


def test_leading_white_space_of_an_answer_is_not_shown(start: Callable[..., Console]) -> None:
    console = start(ScriptedEngine(lambda _: "\n \n Yes, \n"))
    assert console.enter("a?") == "Yes, \n"
    assert start(ScriptedEngine(lambda _: " ")).enter("a?") == "\n"


def test_embedded_model_answers_with_the_conversation(start: Callable[..., Console], embedded_engine: Engine) -> None:
    console = start(embedded_engine)
    assert console.enter("What is machine learning?").startswith("Machine learning is ")
    assert len([piece for piece in console.shown if piece]) > 10
    single = embedded_engine.submit([Message("user", "What is MLOps?")], GenerationParams()).result().text
    assert console.enter("What is MLOps?").strip() != ""
    assert console.enter("/reset", "What is MLOps?") == f"{single.strip()}\n"


def test_truncated_conversation_is_reported_once(start: Callable[..., Console], embedded_engine: Engine) -> None:
    console = start(embedded_engine, generation=GenerationParams(max_tokens=8, ignore_eos=True))
    console.enter("old words " * 150)
    cut = "(cut off at the maximum number of tokens; --max-tokens N allows more)"
    assert console.said == [cut]
    console.said.clear()
    console.enter("other words " * 150)
    assert console.said[1:] == [
        "(the 2 oldest turns were left out: the context window is full; /reset starts a new conversation)"
    ]
    console.said.clear()
    with pytest.raises(InputError, match="tokens; the model takes 512"):
        console.enter("words " * 1000)
    assert len(console.session.dialogue.turns) == 4  # without the failed question
    console.enter("/reset", "short")
    assert console.said == [cut]


def test_interrupted_answer_keeps_its_text(start: Callable[..., Console]) -> None:
    for pieces, remembered in ((0, "one "), (2, "one two three ")):
        console = start(ScriptedEngine(lambda _: "one two three four"))

        def show(text: str, shown: list[str] = console.shown, pieces: int = pieces) -> None:
            if len([piece for piece in shown if piece]) == pieces and text.strip():
                raise KeyboardInterrupt  # Ctrl-C while printing
            shown.append(text)

        console.session._show = show
        with pytest.raises(KeyboardInterrupt):
            console.enter("count")
        _, answer = console.session.dialogue.turns
        assert (answer.content, answer.finish_reason) == (remembered, "cancelled")
        assert console.shown[-1] == "\n"


def test_answer_interrupted_before_its_first_text_is_not_kept(start: Callable[..., Console]) -> None:
    console = start()

    def show(_: str) -> None:
        raise KeyboardInterrupt

    console.session._show = show
    with pytest.raises(KeyboardInterrupt):
        console.enter("count")
    assert console.session.dialogue.turns == []


def test_closing_an_answer_stops_the_engine(embedded_engine: Engine) -> None:
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


def test_questions_are_filled_into_a_registered_prompt(start: Callable[..., Console], config: ChatConfig) -> None:
    store = open_prompts(workspace=config)
    store.register(Draft("two", "{{topic}}: {{question}}"))
    store.register(
        Draft("short", "{{text}} In short:\n{{text}}", settings={"max_tokens": 2, "stop_sequences": ["END"]})
    )
    store.set_alias("short", "live", 1)
    console = start(ScriptedEngine(lambda prompt: prompt.replace("\n", "|")))
    assert console.enter("/prompt simple", "a?") == "Question: a?|Answer:\n"
    assert console.hints[-1] == "questions are filled into simple/1; /prompt without a name turns that off"
    assert console.enter("/reset", "/prompt short@live", "b?") == "b? In\n"  # max_tokens 2 of the prompt
    with pytest.raises(
        InputError, match=r"prompt two/1 has the variables topic, question; a session fills in only the question"
    ):
        console.enter("/prompt two/1")
    with pytest.raises(InputError, match="no prompt 'nowhere'"):
        console.enter("/prompt nowhere")
    assert console.session.dialogue.prompt is not None  # the earlier prompt stays
    assert console.enter("/reset", "/prompt", "c?") == "c?\n"


def test_release_uses_its_own_prompt_unless_another_is_chosen(
    start: Callable[..., Console], config: ChatConfig
) -> None:
    engine = ScriptedEngine(lambda prompt: prompt.replace("\n", "|"))
    console = start(engine, prompt=Prompt("qa", 2, "Q: {{question}}\nA:"))
    assert console.enter("a?") == "Q: a?|A:\n"
    assert console.enter("b?") == "a?|Q: a?|A:|Q: b?|A:\n"  # the earlier question stays as it was filled in
    assert console.enter("/reset", "/prompt simple", "c?") == "Question: c?|Answer:\n"
    open_prompts(workspace=config).register(Draft("kind", "{{question}}", system="Be kind."))
    assert console.enter("/reset", "/prompt kind", "c?") == "Be kind.|c?\n"
    console.enter("/reset", "/prompt simple", "c?")
    assert console.enter("/reset", "/prompt", "d?") == "d?\n"
    prompts = [turn["prompt"] for turn in console.session.as_dict()["turns"] if turn["role"] == "user"]
    assert prompts == ["qa/2", "qa/2", "simple/1", "kind/1", "simple/1", None]

    two = start(engine, prompt=Prompt("two", 1, "{{topic}}: {{question}}"))
    with pytest.raises(InputError, match="prompt two/1 needs values for topic, question") as caught:
        two.enter("a?")
    assert caught.value.hint == "/prompt to send questions unchanged"
    assert two.enter("/prompt", "a?") == "a?\n"


def test_conversation_is_saved(start: Callable[..., Console], workspace: Workspace) -> None:
    console = start()
    with pytest.raises(InputError, match="the conversation is empty"):
        console.enter("/save talk.jsonl")
    console.enter("/system Loud.", "hello there", "/save talk.jsonl", "/save my talk.MD")
    talk = Path("talk.jsonl")
    assert [json.loads(line) for line in talk.read_text().splitlines()] == [
        {"role": "system", "content": "Loud."},
        {"role": "user", "content": "hello there"},
        {"role": "assistant", "content": "HELLO THERE"},
    ]
    assert Path("my talk.MD").read_text().startswith("# Conversation with mine\n\n### system\n\nLoud.\n")
    assert {stat.S_IMODE(path.stat().st_mode) for path in (talk, Path("my talk.MD"))} == {0o600}
    before = talk.read_text()
    console.enter("more")
    with pytest.raises(InputError) as caught:
        console.enter("/save talk.jsonl")
    assert (caught.value.message, caught.value.hint) == ("talk.jsonl already exists", "/save --overwrite talk.jsonl")
    assert talk.read_text() == before
    console.enter("/save --overwrite talk.jsonl")
    assert len(talk.read_text().splitlines()) == 5
    assert stat.S_IMODE(talk.stat().st_mode) == 0o600
    with pytest.raises(InputError, match="/save needs FILE"):
        console.enter("/save --overwrite")
    for place in ("no/such/folder.md", "/save --overwrite .", "a\0b", "~nobody-of-this-name/x"):
        with pytest.raises(InputError, match=r"cannot be written|already exists"):
            console.enter(place if place.startswith("/save") else f"/save {place}")
    assert sorted(path.name for path in Path.cwd().iterdir()) == [".fledge", "mlflow.db", "my talk.MD", "talk.jsonl"]


def test_feedback_needs_an_endpoint(start: Callable[..., Console]) -> None:
    console = start()
    with pytest.raises(InputError, match="there is no answer to rate"):
        console.enter("/good")
    console.enter("hello")
    with pytest.raises(InputError, match="feedback needs a fledge endpoint") as caught:
        console.enter("/bad dull")
    assert "fledge serve" in caught.value.hint


def test_help_and_configured_system_text(start: Callable[..., Console]) -> None:
    console = start(ScriptedEngine(_count_lines), system="Be brief.")
    console.enter("/help")
    assert "/prompt [NAME]" in console.said[0]
    assert console.enter("a?") == "2 lines\n"


def test_only_chosen_settings_are_sent(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ChatConfig.load().settings == {}
    monkeypatch.setenv("FLEDGE_TOP_P", "0.5")
    config = ChatConfig.load({"temperature": 0.0, "stop": "a,b", "seed": None})
    assert config.settings == {"temperature": 0.0, "top_p": 0.5, "stop": ("a", "b")}
    assert ChatConfig(generation=GenerationParams(max_tokens=5)).settings == {"max_tokens": 5}


def test_invalid_target_is_refused_with_a_hint(config: ChatConfig) -> None:
    for target in ("no/such/folder", "http://[::1", "http://me:secret@127.0.0.1:1/v1", "nobody@champion"):
        with pytest.raises(FledgeError) as caught:
            open_partner(config, target)
        assert caught.value.hint
    with pytest.raises(InputError, match="the engine openvino cannot run a URL"):
        open_partner(replace(config, engine="openvino"), "http://127.0.0.1:1")
