"""Encode prompts in a child process, since a chat template or tokenizer may be hostile: `python -m
fledge.engines.prompt_encoder DESCRIPTOR`."""

from collections.abc import Callable, Sequence

import msgspec

from fledge.core.errors import FledgeError, InputError, rebuild
from fledge.core.generation import GenerationParams
from fledge.core.types import Message
from fledge.engines.engine import PromptInput
from fledge.engines.guarded_child import GuardedChild, Handle, limit_memory, limit_time, serve
from fledge.engines.stream import Stream
from fledge.engines.text import Encoded, Text, TextConfig, check_tokens, reserved_tokens

TIME_LIMIT_S = 2.0
CHARACTERS_PER_S = 200_000  # on a slow CPU; long prompts get more time
MEMORY_LIMIT_BYTES = 1 << 30
TOKENIZER_COPIES = 24  # memory of a tokenizer, as a multiple of its file size

Done = Callable[["Encoded | FledgeError"], None]


class _Request(msgspec.Struct, array_like=True):
    """A prompt; either `text` or `messages` is set."""

    room: int
    text: str | None = None
    messages: list[tuple[str, str]] | None = None
    parse_special: bool = False

    @property
    def characters(self) -> int:
        return len(self.text or "") + sum(len(content) for _, content in self.messages or ())


class _Reply(msgspec.Struct, array_like=True):
    """Tokens, or an error of the class `kind`."""

    token_ids: list[int] = []
    turns_left_out: int = 0
    error: str = ""
    hint: str = ""
    kind: str = "InputError"


_encode = msgspec.msgpack.Encoder().encode
_reply = msgspec.msgpack.Decoder(_Reply).decode
_request = msgspec.msgpack.Decoder(_Request).decode


class PromptEncoder(GuardedChild):
    """Turns prompts into tokens, in order."""

    module = __name__

    def __init__(self, config: TextConfig) -> None:
        super().__init__(_encode(config))

    def send(self, prompt: str | Sequence[Message], room: int, done: Done, *, parse_special: bool = False) -> None:
        """Send a prompt; `receive` will call `done` with its tokens or the error."""
        if isinstance(prompt, str):
            request = _Request(room, prompt, None, parse_special)
        else:
            request = _Request(room, None, [(turn.role, turn.content) for turn in prompt])
        try:
            body = _encode(request)
        except UnicodeEncodeError:
            done(InputError("the prompt is not valid Unicode text"))
            return
        self.submit(body, lambda reply: done(reply if isinstance(reply, FledgeError) else _to_result(_reply(reply))))

    def _explain_death(self, limit: str) -> FledgeError:
        return InputError(
            f"the model's tokenizer or chat template took {limit} on this prompt", hint="shorten the prompt"
        )

    def _explain_no_start(self) -> FledgeError:
        return FledgeError("the model's tokenizer cannot be loaded", hint="fetch the model again, or name another")


def encode_prompt(
    encoder: PromptEncoder,
    config: TextConfig,
    prompt: PromptInput,
    params: GenerationParams,
    stream: Stream,
    begin: Callable[[Encoded], None],
) -> None:
    """Call `begin` with the tokens of a prompt, later for text and conversations. An error fails the stream."""

    def done(encoded: Encoded | FledgeError) -> None:
        if isinstance(encoded, FledgeError):
            stream.fail(encoded)
        else:
            begin(encoded)

    room = reserved_tokens(params.max_tokens, config.context)
    if isinstance(prompt, str) or (prompt and isinstance(prompt[0], Message)):
        encoder.send(prompt, room, done, parse_special=params.parse_special)  # type: ignore[arg-type]
        return
    try:
        token_ids = [int(token) for token in prompt]  # type: ignore[arg-type]
        check_tokens(token_ids, room, config)
    except InputError as error:
        stream.fail(error)
        return
    begin(Encoded(token_ids, 0))


def _to_result(reply: _Reply) -> Encoded | FledgeError:
    if reply.error:
        return rebuild(reply.kind, reply.error, reply.hint)
    return Encoded(reply.token_ids, reply.turns_left_out)


def _encode_prompt(text: Text, request: _Request) -> _Reply:
    turns = [Message(*turn) for turn in request.messages or ()]  # type: ignore[arg-type]
    prompt = request.text if request.text is not None else turns
    try:
        encoded = text.encode(prompt, request.room, parse_special=request.parse_special)
    except InputError as error:
        return _Reply(error=error.message, hint=error.hint, kind=type(error).__name__)
    except MemoryError:
        return _Reply(error="the model's tokenizer took too much memory on this prompt", hint="shorten the prompt")
    except BaseException as error:  # noqa: BLE001 (the tokenizer's panics are not an Exception)
        return _Reply(error=f"the model's tokenizer failed on this prompt: {error}"[:500], hint="change the prompt")
    return _Reply(encoded.token_ids, encoded.turns_left_out)


def _prepare(body: bytes) -> Handle:
    config = msgspec.msgpack.decode(body, type=TextConfig)
    limit_memory(MEMORY_LIMIT_BYTES + TOKENIZER_COPIES * len(config.tokenizer))
    text = Text(config)

    def handle(body: bytes) -> bytes:
        request = _request(body)
        limit_time(TIME_LIMIT_S + request.characters / CHARACTERS_PER_S)
        return _encode(_encode_prompt(text, request))

    return handle


if __name__ == "__main__":
    serve(_prepare)
