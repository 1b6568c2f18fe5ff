"""Messages of a conversation, as the OpenAI protocol sends them."""

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.config import JsonDict
from pydantic_core import PydanticCustomError

from fledge.serving.request_models import Text, unknown_names

RENDERED_TOOLS = "tools, calls and their results are rendered as text"


class TextPart(BaseModel):
    """A part of a message. Only text is supported."""

    model_config = ConfigDict(strict=True, extra="allow")

    type: Literal["text"]
    text: Text


class CalledFunction(BaseModel):
    """A function that the assistant called, with its arguments as JSON text."""

    model_config = ConfigDict(strict=True, extra="allow")

    name: Text
    arguments: Text = ""


class ToolCall(BaseModel):
    """A tool call of the assistant in an earlier turn."""

    model_config = ConfigDict(strict=True, extra="allow")

    id: Text = ""
    type: Literal["function"] = "function"
    function: CalledFunction

    @property
    def text(self) -> str:
        try:
            arguments = json.loads(self.function.arguments or "{}")
        except ValueError:
            arguments = self.function.arguments
        return json.dumps({"name": self.function.name, "arguments": arguments}, ensure_ascii=False)


CONTENT_OR_CALLS: JsonDict = {
    "anyOf": [
        {"required": ["content"], "properties": {"content": {"type": ["string", "array"]}}},
        {"required": ["tool_calls"], "properties": {"tool_calls": {"type": "array", "minItems": 1}}},
    ]
}


def _check_parts(content: Any) -> Any:
    """Refuse a list of parts with one message, instead of one for each form of a content."""
    if isinstance(content, list):
        for number, part in enumerate(content):
            kind = part.get("type") if isinstance(part, dict) else None
            if kind in ("image_url", "input_image", "image"):
                raise PydanticCustomError("images", "images are not supported (part {number})", {"number": number})
            if kind != "text":
                raise PydanticCustomError(
                    "parts", "part {number} is not a text: only parts of type text are supported", {"number": number}
                )
    elif content is not None and not isinstance(content, str):
        raise PydanticCustomError("content", "must be a text or a list of text parts")
    return content


class ChatMessage(BaseModel):
    """One turn of a conversation. An assistant's turn may be tool calls alone; a turn of role `tool` is a result."""

    model_config = ConfigDict(strict=True, extra="allow", json_schema_extra=CONTENT_OR_CALLS)

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Annotated[
        Text | Annotated[list[TextPart], Field(fail_fast=True, min_length=1, max_length=100)] | None,
        BeforeValidator(_check_parts),
    ] = None
    tool_calls: Annotated[list[ToolCall], Field(fail_fast=True, max_length=128)] | None = None
    tool_call_id: Text | None = None
    name: Text | None = Field(None, description="accepted, and not shown to the model")
    refusal: Text | None = None

    @model_validator(mode="after")
    def _check_content(self) -> "ChatMessage":
        if self.content is None and not self.tool_calls:
            raise PydanticCustomError("missing", "content is missing")
        return self

    @property
    def uses_tools(self) -> bool:
        return bool(self.tool_calls) or self.role == "tool"

    @property
    def turn(self) -> tuple[str, str]:
        """Role and text, in the form for engines. Tool calls are JSON lines, their results turns of the user."""
        content = self.content or ""
        text = content if isinstance(content, str) else "".join(part.text for part in content)
        if self.role == "tool":
            return "user", f"Result of the tool call{f' {self.tool_call_id}' if self.tool_call_id else ''}:\n{text}"
        calls = [call.text for call in self.tool_calls or ()]
        lines = [*([text] if text else []), *calls]
        return ("system" if self.role == "developer" else self.role), "\n".join(lines)


ChatMessages = Annotated[list[ChatMessage], Field(fail_fast=True, min_length=1, max_length=1000)]


def ignored_in(messages: Sequence[ChatMessage]) -> list[str]:
    """Return the names of ignored fields in messages."""
    found = {name for message in messages for name in unknown_names(message, "messages.")}
    parts = [part for message in messages if isinstance(message.content, list) for part in message.content]
    return sorted(found | {name for part in parts for name in unknown_names(part, "messages.content.")})
