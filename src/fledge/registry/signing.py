"""Signatures of releases: sigstore's model-signing with a pair of keys, which needs no network."""

import importlib
from pathlib import Path
from typing import Any

from fledge.core.errors import FledgeError, InputError, MissingExtraError
from fledge.releases.manifest import SIGNATURE

MAKE_KEYS = "openssl ecparam -name prime256v1 -genkey -noout -out private.pem; openssl ec -in private.pem -pubout"


def check_key(key: Path) -> None:
    """Raise `InputError` unless `key` is a private key that signs, `MissingExtraError` where nothing here can sign."""
    _signer(key)


def sign(folder: Path, key: Path) -> None:
    """Sign a release folder with the private key in a PEM file."""
    parts = _library("hashing").Config().set_ignored_paths(paths=[SIGNATURE])
    _signer(key).set_hashing_config(parts).sign(folder, folder / SIGNATURE)


def check_signature(folder: Path, key: Path) -> None:
    """Raise `FledgeError` unless a release was signed with the private key that belongs to the public key `key`."""
    if not (folder / SIGNATURE).is_file():
        raise FledgeError("the release is not signed", hint="fledge register --sign-key PRIVATE.pem")
    verifying = _library("verifying")
    try:
        checked = verifying.Config().use_elliptic_key_verifier(public_key=key)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{key} is no public key: {error}", hint=f"{MAKE_KEYS} -out public.pem") from None
    try:
        checked.verify(folder, folder / SIGNATURE)
    except Exception as error:  # noqa: BLE001 (whatever it cannot verify is not signed)
        raise FledgeError(
            f"the signature does not hold: {error or type(error).__name__}", hint="check the key"
        ) from None


def _signer(key: Path) -> Any:
    signing = _library("signing")
    try:
        return signing.Config().use_elliptic_key_signer(private_key=key)
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{key} is no private key: {error}", hint=f"{MAKE_KEYS} -out public.pem") from None


def _library(part: str) -> Any:
    try:
        return importlib.import_module(f"model_signing.{part}")
    except ModuleNotFoundError:
        raise MissingExtraError("what signs releases", "sign") from None
