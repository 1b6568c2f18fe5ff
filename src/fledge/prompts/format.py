"""How a prompt is put to a model: as a conversation or as a text to complete; and how it meets a conversation. Pure."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from fledge.core.errors import InputError
from fledge.core.types import Format, Message
from fledge.prompts.prompt import Prompt, PromptFormat
from fledge.prompts.template import Template, fill, variables
from fledge.releases.manifest import Manifest


def resolve(prompt: Prompt, wanted: PromptFormat, model: str, takes: Collection[Format]) -> Format:
    """Return the format in which to prompt `model`: `wanted`, else the prompt's own, else chat if the model
    supports it.

    `takes` are the formats of the model. Raises `InputError` if it does not take the prompt in that format.
    """
    chosen = wanted if wanted != "auto" else prompt.format
    if not isinstance(prompt.template, str):
        if chosen == "completion":
            raise InputError(
                f"prompt {prompt.label} is a conversation, which cannot be sent as a completion",
                hint="leave out --format completion, or name a prompt that is one text",
            )
        return "chat"
    if chosen == "auto":
        chosen = "chat" if "chat" in takes else "completion"
    elif chosen not in takes:
        raise _not_taken(prompt, chosen, model)
    if chosen == "completion" and prompt.system:
        raise InputError(
            f"prompt {prompt.label} has a system text, which has no place where {model} is asked as completion",
            hint="ask an instruct model without --format completion, or put the system text into the prompt's own text",
        )
    return chosen


def _not_taken(prompt: Prompt, form: Format, model: str) -> InputError:
    if form == "completion":
        return InputError(
            f"prompt {prompt.label} cannot be sent as a completion to {model}: models behind a URL take chat only",
            hint="--format chat",
        )
    return InputError(
        f"prompt {prompt.label} cannot be sent as chat: {model} has no chat template",
        hint="--format completion, or name an instruct model",
    )


def as_asked(prompt: Prompt, form: Format | None) -> Prompt:
    """The prompt with the template that a model is asked by: for chat, a text becomes a turn of the user, after its
    system text."""
    if form != "chat" or not isinstance(prompt.template, str):
        return prompt
    opening = [Message("system", prompt.system)] if prompt.system else []
    return replace(prompt, template=(*opening, Message("user", prompt.template)), system="")


def prompt_of(manifest: Manifest) -> Prompt:
    """A release's own prompt, as its model is asked."""
    stored = Prompt(manifest.prompt_name, manifest.prompt_version, manifest.template, system=manifest.system)
    return as_asked(stored, manifest.format)


def fill_conversation(prompt: Prompt, turns: Sequence[Message], values: Mapping[str, str]) -> Template | None:
    """What a model is asked for a conversation, by a prompt as `as_asked` gives it; None where no user speaks in it.

    The last turn of the user is filled in, for the one variable that has no value in `values`. System text and examples
    of a prompt that is a conversation go before all that was said; a system text of the conversation's own replaces its
    system text. A text to complete stays one where the conversation is one turn, unless it is nothing but the variable:
    then the conversation stays as it is. Raises `InputError` where several variables have no value.
    """
    at = max((place for place, turn in enumerate(turns) if turn.role == "user"), default=None)
    if at is None:
        return None
    lacking = [name for name in prompt.variables if name not in values]
    if len(lacking) > 1:
        raise InputError(
            f"prompt {prompt.label} needs values for {', '.join(lacking)}, and a conversation gives one",
            hint=f'"prompt": {{"id": "{prompt.label}", "variables": {{...}}}} gives the others; "prompt": "none" asks '
            "without it",
        )
    values = {**values, **dict.fromkeys(lacking, turns[at].content)}
    before, after = turns[:at], turns[at + 1 :]
    if isinstance(prompt.template, str):
        text = fill(prompt.template, values)
        stays = len(turns) > 1 or text == turns[at].content
        return (*before, Message("user", text), *after) if stays else text
    own_system = any(turn.role == "system" for turn in turns)
    asked = [
        replace(turn, content=fill(turn.content, values))
        for turn in prompt.template
        if not own_system or turn.role != "system" or variables(turn.content)
    ]
    # A prompt's last question stands where that of the conversation stood, what goes before it before all else.
    asked_at = max((place for place, turn in enumerate(asked) if turn.role == "user"), default=len(asked) - 1)
    head = next((place for place, turn in enumerate(before) if turn.role != "system"), len(before))
    return (*before[:head], *asked[:asked_at], *before[head:], *asked[asked_at:], *after)
