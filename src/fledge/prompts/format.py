"""Choose chat or completion for a prompt, and merge a prompt with a conversation. Pure functions."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from fledge.core.errors import InputError
from fledge.core.types import Format, Message
from fledge.prompts.prompt import Prompt, PromptFormat
from fledge.prompts.template import Template, fill, variables
from fledge.releases.manifest import Manifest


def resolve_format(prompt: Prompt, requested: PromptFormat, model: str, supported: Collection[Format]) -> Format:
    """Return the format in which to prompt `model`: `requested`, else the prompt's own, else chat if the model
    supports it.

    `supported` are the formats of the model. Raises `InputError` if it does not take the prompt in that format.
    """
    chosen = requested if requested != "auto" else prompt.format
    if not isinstance(prompt.template, str):
        if chosen == "completion":
            raise InputError(
                f"prompt {prompt.label} is a conversation, which cannot be sent as a completion",
                hint="omit --format completion, or use a text prompt",
            )
        return "chat"
    if chosen == "auto":
        chosen = "chat" if "chat" in supported else "completion"
    elif chosen not in supported:
        raise _unsupported_format(prompt, chosen, model)
    if chosen == "completion" and prompt.system:
        raise InputError(
            f"prompt {prompt.label} has a system text, which {model} cannot use in the completion format",
            hint="use an instruct model without --format completion, or move the system text into the template",
        )
    return chosen


def _unsupported_format(prompt: Prompt, form: Format, model: str) -> InputError:
    if form == "completion":
        return InputError(
            f"prompt {prompt.label} cannot be sent as a completion to {model}: models behind a URL support chat only",
            hint="--format chat",
        )
    return InputError(
        f"prompt {prompt.label} cannot be sent as chat: {model} has no chat template",
        hint="--format completion, or use an instruct model",
    )


def apply_format(prompt: Prompt, form: Format | None) -> Prompt:
    """Return the prompt with the template sent to the model: for chat, a text becomes a user turn after its system
    text."""
    if form != "chat" or not isinstance(prompt.template, str):
        return prompt
    opening = [Message("system", prompt.system)] if prompt.system else []
    return replace(prompt, template=(*opening, Message("user", prompt.template)), system="")


def prompt_of(manifest: Manifest) -> Prompt:
    """Return a release's prompt in the format for its model."""
    stored = Prompt(manifest.prompt_name, manifest.prompt_version, manifest.template, system=manifest.system)
    return apply_format(stored, manifest.format)


def fill_conversation(prompt: Prompt, turns: Sequence[Message], values: Mapping[str, str]) -> Template | None:
    """Merge a conversation into a prompt from `apply_format`; return None for a conversation without a user turn.

    The last user turn fills the one variable without a value in `values`. The system text and examples of a
    conversation prompt go first; a system turn of the conversation replaces the prompt's, unless that has variables. A
    text prompt stays a text for a single turn, unless it is only the variable: then the conversation is returned
    unchanged. Raises `InputError` if several variables have no value.
    """
    at = max((place for place, turn in enumerate(turns) if turn.role == "user"), default=None)
    if at is None:
        return None
    lacking = [name for name in prompt.variables if name not in values]
    if len(lacking) > 1:
        raise InputError(
            f"prompt {prompt.label} needs values for {', '.join(lacking)}, and a conversation provides only one",
            hint=f'"prompt": {{"id": "{prompt.label}", "variables": {{...}}}} provides the others; "prompt": "none" '
            "omits the prompt",
        )
    values = {**values, **dict.fromkeys(lacking, turns[at].content)}
    before, after = turns[:at], turns[at + 1 :]
    if isinstance(prompt.template, str):
        text = fill(prompt.template, values)
        keep_turns = len(turns) > 1 or text == turns[at].content
        return (*before, Message("user", text), *after) if keep_turns else text
    own_system = any(turn.role == "system" for turn in turns)
    asked = [
        replace(turn, content=fill(turn.content, values))
        for turn in prompt.template
        if not own_system or turn.role != "system" or variables(turn.content)
    ]
    # The prompt's last user turn replaces that of the conversation; its earlier turns go first.
    asked_at = max((place for place, turn in enumerate(asked) if turn.role == "user"), default=len(asked) - 1)
    head = next((place for place, turn in enumerate(before) if turn.role != "system"), len(before))
    return (*before[:head], *asked[:asked_at], *before[head:], *asked[asked_at:], *after)
