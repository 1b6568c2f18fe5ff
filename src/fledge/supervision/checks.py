"""Validate the settings of an endpoint before anything is written, stopped or started."""

import os
import ssl
from collections.abc import Mapping
from pathlib import Path

from fledge.core.errors import InputError
from fledge.core.keys import HINT, MINIMUM_BYTES, VARIABLE, read_keys
from fledge.core.network import LOOPBACK
from fledge.serving.redaction import make_redactor
from fledge.supervision.config import ServeConfig


def check(config: ServeConfig, environ: Mapping[str, str]) -> None:
    """Raise `InputError` for invalid or conflicting settings; `environ` is the endpoint's environment."""
    _check_access(config, environ)
    if config.redact:
        _check_redaction(config)
    if config.canary:
        _check_canary(config)
    if config.otlp:
        _check_otlp(config)


def _check_access(config: ServeConfig, environ: Mapping[str, str]) -> None:
    """Check keys and certificate, and require a key beyond loopback."""
    known = read_keys(Path(config.keys_file)) if config.keys_file else {}
    for path in filter(None, (config.tls_cert, config.tls_key)):
        if not Path(path).is_file():
            raise InputError(f"file not found: {path}", hint="check --tls-cert and --tls-key")
    if config.tls_cert:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(config.tls_cert, config.tls_key, password="")
        except OSError as error:  # ssl.SSLError is one
            reason = f"cannot load certificate {config.tls_cert} with key {config.tls_key}: {error}"
            raise InputError(
                reason, hint="check --tls-cert and --tls-key: PEM files, the key without a passphrase"
            ) from None
    own = environ.get(VARIABLE, "")
    if config.host in LOOPBACK or (known and not own):
        return
    if len(os.fsencode(own)) < MINIMUM_BYTES:
        raise InputError(
            f"listening on {config.host} needs a key of at least {MINIMUM_BYTES} bytes",
            hint=f'export {VARIABLE}="$(openssl rand -hex 32)"; or --keys-file with {HINT}; or keep --host 127.0.0.1',
        )


def _check_redaction(config: ServeConfig) -> None:

    # Only the endpoint imports a user's own function.
    make_redactor([rule for rule in config.redact if ":" not in rule or rule.startswith("regex:")])


def _check_canary(config: ServeConfig) -> None:
    from fledge.rollout.canary import read_plan

    read_plan(config.steps, config.hold, config.guard)
    if not config.record:
        raise InputError(
            "--canary cannot be combined with --no-record: it is judged by the records", hint="leave out --no-record"
        )


def _check_otlp(config: ServeConfig) -> None:
    from fledge.monitoring._otlp import OtlpShipper

    OtlpShipper(config.otlp)
    if not config.record:
        raise InputError(
            "--otlp cannot be combined with --no-record: it sends the records", hint="leave out --no-record"
        )
