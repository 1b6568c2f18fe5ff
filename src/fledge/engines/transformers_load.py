"""Loading with transformers, which takes much as it comes: weights it misses are made up, unknown values break later.

Here what does not fit is refused, and every error of the library says of which model it speaks.
"""

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from fledge.core.errors import InputError
from fledge.engines.text import explained
from fledge.models.architectures import LEGACY, SAVE_AGAIN
from fledge.models.config_files import FETCH_AGAIN
from fledge.models.tokenizer_files import WHOLE, check_tokenizer


def load_model(folder: Path, source: str, dtype: Any) -> Any:
    """The model of a checked folder; `source` names it in errors.

    Raises `InputError` where the library does not take it, or would make up or leave out some of its weights.
    """
    config = _config(folder, source)
    logging.disable_progress_bar()
    level = logging.get_verbosity()
    logging.set_verbosity_error()  # what it reports of weights is an error here
    try:
        model, info = explained(
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
            InputError(f"transformers does not load {source}", hint=FETCH_AGAIN),
        )
    finally:
        logging.set_verbosity(level)
    _check_class(model, source)
    mismatched = {name: f"has {list(found)} for {list(wanted)}" for name, found, wanted in info["mismatched_keys"]}
    _refuse(info["missing_keys"], "lack", source)
    _refuse([name for name in info["unexpected_keys"] if not LEGACY.search(name)], "have, in excess,", source)
    for name, shapes in mismatched.items():
        raise InputError(f"{source}: the tensor {name!a} {shapes}, which config.json implies", hint=SAVE_AGAIN)
    return model


def _config(folder: Path, source: str) -> Any:
    return explained(
        lambda: AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False),
        InputError(f"transformers does not take {source}/config.json", hint=FETCH_AGAIN),
    )


def _check_class(model: Any, source: str) -> None:
    named, found = model.config.architectures[0], type(model).__name__
    if named.casefold() != found.casefold():
        raise InputError(
            f"{source}/config.json has 'architectures' {named!a}, and 'model_type' "
            f"{model.config.model_type!a}, which is a {found}",
            hint=SAVE_AGAIN,
        )


def _refuse(names: Collection[str], verb: str, source: str) -> None:
    if names:
        first, *others = sorted(names)
        more = f" and {len(others)} more" if others else ""
        raise InputError(f"{source}: the weights {verb} the tensor {first!a}{more}", hint=SAVE_AGAIN)


def load_tokenizer(folder: Path, source: str, vocabulary: int) -> Any:
    """The tokenizer that transformers makes of the files in a checked folder.

    Raises `InputError` where it makes none, or, of files that it converts, one that is not bounded.
    """
    config = _config(folder, source)
    tokenizer = explained(
        lambda: AutoTokenizer.from_pretrained(folder, config=config, local_files_only=True, trust_remote_code=False),
        InputError(f"transformers makes no tokenizer of the files in {source}", hint=FETCH_AGAIN),
    )
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise InputError(
            f"transformers makes a {type(tokenizer).__name__} of the files in {source}, which has no fast form",
            hint=f"save it as {WHOLE}: tokenizer.save_pretrained(DIR)",
        )
    if not (folder / WHOLE).is_file():
        check_tokenizer(json.loads(backend.to_str()), vocabulary, f"{source}: the tokenizer")
    return tokenizer
