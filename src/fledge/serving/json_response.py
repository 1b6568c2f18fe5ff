"""JSON responses from msgspec structs."""

from typing import Any

from starlette.responses import JSONResponse

from fledge.serving.response_models import encode


class StructResponse(JSONResponse):
    """A struct, or a list of plain values, as JSON."""

    def render(self, content: Any) -> bytes:
        return encode(content)
