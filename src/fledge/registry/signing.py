"""Signing releases with a key pair by sigstore's model-signing, without a network."""

import importlib
from pathlib import Path
from typing import Any

from fledge.core.errors import FledgeError, InputError, MissingExtraError
from fledge.releases.manifest import SIGNATURE

MAKE_KEYS = "openssl ecparam -name prime256v1 -genkey -noout -out private.pem; openssl ec -in private.pem -pubout"


def check_key(key: Path) -> None:
    """Raise `InputError` unless `key` is a usable private key, `MissingExtraError` without the extra `sign`."""
    _load_signer(key)


def sign(folder: Path, key: Path) -> None:
    """Sign a release folder with the private key in a PEM file."""
    parts = _import_part("hashing").Config().set_ignored_paths(paths=[SIGNATURE])
    _load_signer(key).set_hashing_config(parts).sign(folder, folder / SIGNATURE)


def check_signature(folder: Path, key: Path) -> None:
    """Raise `FledgeError` unless the signature of a release matches the public key `key`."""
    if not (folder / SIGNATURE).is_file():
        raise FledgeError("the release is not signed", hint="fledge register --sign-key PRIVATE.pem")
    verifying = _import_part("verifying")
    try:
        checked = verifying.Config().use_elliptic_key_verifier(public_key=key)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{key} is not a public key: {error}", hint=f"{MAKE_KEYS} -out public.pem") from None
    try:
        checked.verify(folder, folder / SIGNATURE)
    except Exception as error:  # noqa: BLE001 (model-signing raises many kinds)
        raise FledgeError(f"invalid signature: {error or type(error).__name__}", hint="check the key") from None


def _load_signer(key: Path) -> Any:
    signing = _import_part("signing")
    try:
        return signing.Config().use_elliptic_key_signer(private_key=key)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{key} is not a private key: {error}", hint=f"{MAKE_KEYS} -out public.pem") from None


def _import_part(part: str) -> Any:
    try:
        return importlib.import_module(f"model_signing.{part}")
    except ModuleNotFoundError:
        raise MissingExtraError("what signs releases", "sign") from None
