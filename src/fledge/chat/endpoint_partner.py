"""An endpoint as the partner of a session: fledge's own, or any with OpenAI's protocol."""

import secrets
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from typing import Any

from fledge.chat.partner import NO_FEEDBACK_HINT, AnswerPart
from fledge.client.address import KeyRejectedError, ProtocolError
from fledge.client.client import Client
from fledge.core.errors import FledgeError, InputError
from fledge.core.types import Message


class EndpointPartner:
    """Sends questions to the endpoint at a URL, `http(s)://host[/v1][#MODEL]`.

    The key is `FLEDGE_API_KEY` for an endpoint of fledge, else `OPENAI_API_KEY`; neither is sent to the other kind.
    """

    def __init__(self, url: str) -> None:
        """Raise `FledgeError` if it does not respond, `InputError` if it rejects the key or lists no models."""
        self._is_fledge = _is_fledge(url)
        self._client = Client(url, openai=not self._is_fledge)
        self._session = secrets.token_hex(16)  # one arm answers the whole conversation
        self._model = self._client.address.model
        try:
            name = self._choose_model()
        except BaseException:
            self._client.close()
            raise
        self.description = f"{name} at {self._client.address.host}"

    def ask(
        self, messages: Sequence[Message], settings: Mapping[str, Any], *, plain: bool = False
    ) -> Generator[AnswerPart]:
        own: dict[str, Any] = {}
        if self._is_fledge:
            own = {"session": self._session, **({"prompt": "none"} if plain else {})}
        parts = self._client.chat(messages, stream=True, model=self._model, **settings, **own)
        try:
            with closing(parts):
                first = next(parts)
                yield AnswerPart("", "", first.request_id, first.turns_left_out, first.prompt)
                for part in parts:
                    yield AnswerPart(part.text, part.finish_reason)
        except KeyRejectedError:
            raise
        except InputError as error:
            raise InputError(error.message, hint="change the question, or /reset") from None

    def feedback(self, request_id: str, value: bool, comment: str) -> None:
        if not self._is_fledge:
            raise InputError(
                f"feedback needs a fledge endpoint: {self._client.address.host} is not one", NO_FEEDBACK_HINT
            )
        self._client.feedback(request_id, value, name="thumbs", comment=comment)

    def close(self) -> None:
        self._client.close()

    def _choose_model(self) -> str:
        """Return the name of the model. Only endpoints that are not fledge's need one in the request."""
        if self._model and not self._is_fledge:
            return self._model
        names: Sequence[str] = ()
        try:
            names = self._client.models()
        except KeyRejectedError:
            raise
        except FledgeError:  # an endpoint without a list of models may still answer
            pass
        if not self._is_fledge:
            if not names:
                base = self._client.address.base
                raise InputError(f"{base} lists no models", hint=f"name one: {base}#NAME")
            self._model = names[0]
        return self._model or (names[0] if names else "fledge")


def _is_fledge(url: str) -> bool:
    """Return whether `/ready` responds as fledge's does. It needs no key, so it can be called before one is chosen."""
    with Client(url, key="") as client:
        try:
            client.ready()
        except ProtocolError:
            return False
        return True
