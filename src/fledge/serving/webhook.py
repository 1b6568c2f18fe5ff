"""MLflow's webhook for moved aliases. It only triggers a check: the aliases are then read from MLflow."""

import base64
import hashlib
import hmac
import os
import time
from collections.abc import Callable

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException

from fledge.serving.docs import responses

VARIABLE = "FLEDGE_WEBHOOK_SECRET"
PATH = "/webhooks/mlflow"
FRESH_S = 300.0


def add_webhook_route(router: APIRouter, secret: bytes, on_alias_moved: Callable[[], None]) -> None:
    """Add the route. `secret` is the one given to MLflow when the webhook was created."""

    @router.post(PATH, summary="Webhook for aliases moved in MLflow", responses=responses(401), tags=["Operation"])
    async def webhook(request: Request) -> dict[str, bool]:
        headers = request.headers
        signature, moment, delivery = (
            headers.get(f"x-mlflow-{name}", "") for name in ("signature", "timestamp", "delivery-id")
        )
        if not _is_signed(secret, f"{delivery}.{moment}.".encode("latin-1") + await request.body(), signature):
            raise HTTPException(401, "the signature does not match the webhook's secret")
        if not moment.isascii() or not moment.isdigit() or abs(time.time() - int(moment[:20])) > FRESH_S:
            raise HTTPException(401, f"the timestamp is not within {FRESH_S:g} s of now")
        on_alias_moved()
        return {"received": True}


def read_secret() -> bytes:
    """Return the secret from the environment, empty if webhooks are off."""
    return os.fsencode(os.environ.get(VARIABLE, ""))


def _is_signed(secret: bytes, content: bytes, signature: str) -> bool:
    right = b"v1," + base64.b64encode(hmac.new(secret, content, hashlib.sha256).digest())
    return hmac.compare_digest(right, signature.encode("latin-1"))
