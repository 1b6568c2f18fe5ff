"""Load a model with transformers, refusing missing and unknown weights, which the library tolerates.

Errors of the library are translated to errors that name the model.
"""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from fledge.core.errors import InputError
from fledge.engines.text import translate_errors
from fledge.models.architectures import LEGACY, SAVE_AGAIN
from fledge.models.config_files import FETCH_AGAIN
from fledge.models.tokenizer_files import WHOLE, check_tokenizer


def load_model(folder: Path, source: str, dtype: Any) -> Any:
    """Load the model of a checked folder; `source` names it in errors.

    Raises `InputError` if the library rejects it, or would initialize or ignore some weights.
    """
    config = _load_config(folder, source)
    logging.disable_progress_bar()
    level = logging.get_verbosity()
    logging.set_verbosity_error()  # its warnings about weights are errors below
    try:
        model, info = translate_errors(
            lambda: AutoModelForCausalLM.from_pretrained(
                folder,
                config=config,
                dtype=dtype,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            ),
            InputError(f"transformers cannot load {source}", hint=FETCH_AGAIN),
        )
    finally:
        logging.set_verbosity(level)
    _check_class(model, source)
    unexpected = [name for name in info["unexpected_keys"] if not LEGACY.search(name)]
    _refuse_names(info["missing_keys"], "lack a tensor that the architecture requires", source)
    _refuse_names(unexpected, "contain a tensor that the architecture does not define", source)
    for name, found, expected in info["mismatched_keys"]:
        shapes = f"has the shape {list(found)}; config.json implies {list(expected)}"
        raise InputError(f"{source}: the tensor {name!a} {shapes}", hint=SAVE_AGAIN)
    return model


def _load_config(folder: Path, source: str) -> Any:
    return translate_errors(
        lambda: AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False),
        InputError(f"transformers rejects {source}/config.json", hint=FETCH_AGAIN),
    )


def _check_class(model: Any, source: str) -> None:
    named, found = model.config.architectures[0], type(model).__name__
    if named.casefold() != found.casefold():
        raise InputError(
            f"{source}/config.json has 'architectures' {named!a}, but 'model_type' "
            f"{model.config.model_type!a} is a {found}",
            hint=SAVE_AGAIN,
        )


def _refuse_names(names: Collection[str], problem: str, source: str) -> None:
    if names:
        first, *others = sorted(names)
        more = f" and {len(others)} more" if others else ""
        raise InputError(f"{source}: the weights {problem}: {first!a}{more}", hint=SAVE_AGAIN)


def load_tokenizer(folder: Path, source: str, vocabulary: int) -> Any:
    """Load the tokenizer of a checked folder with transformers.

    Raises `InputError` if that fails, or if a tokenizer converted from other files fails the checks.
    """
    config = _load_config(folder, source)
    tokenizer = translate_errors(
        lambda: AutoTokenizer.from_pretrained(folder, config=config, local_files_only=True, trust_remote_code=False),
        InputError(f"transformers cannot build a tokenizer from the files in {source}", hint=FETCH_AGAIN),
    )
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise InputError(
            f"the files in {source} load as {type(tokenizer).__name__}, which has no fast (Rust) implementation",
            hint=f"save it as {WHOLE}: tokenizer.save_pretrained(DIR)",
        )
    if not (folder / WHOLE).is_file():
        check_tokenizer(json.loads(backend.to_str()), vocabulary, f"{source}: the tokenizer")
    return tokenizer
