"""Read sampling settings from a model's `generation_config.json`."""

import json
from typing import Any

from fledge.core.errors import InputError
from fledge.models.config_files import read_object
from fledge.models.snapshot import Snapshot

NAME = "generation_config.json"
VALUES = ("temperature", "top_p", "top_k", "min_p")
# Settings that no engine here supports, with the values that have no effect.
UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "num_beams": (1,),
    "num_beam_groups": (1,),
    "penalty_alpha": (0,),
    "typical_p": (1,),
    "top_h": (),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "encoder_repetition_penalty": (1,),
    "no_repeat_ngram_size": (0,),
    "encoder_no_repeat_ngram_size": (0,),
    "bad_words_ids": ([],),
    "sequence_bias": ({}, []),
    "suppress_tokens": ([],),
    "begin_suppress_tokens": ([],),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "exponential_decay_length_penalty": (),
    "guidance_scale": (1,),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "watermarking_config": (),
}


def read_sampling(model: Snapshot) -> dict[str, Any]:
    """Return the model's `temperature`, `top_p`, `top_k`, `min_p` and `repetition_penalty` that its file sets.

    As in transformers, a model without `do_sample` is greedy, and the default temperature is 1. Raises `InputError`
    for a setting that no engine here supports.
    """
    if NAME not in model.files:
        return {}
    where = f"{model.source}/{NAME}"
    content = read_object(model.path / NAME, where)
    given = {name: value for name, value in content.items() if value is not None}
    for name, neutral in UNSUPPORTED.items():
        if name in given and given[name] not in neutral:
            raise InputError(
                f"{where} has {name} {json.dumps(given[name])[:50]}, which no engine here supports",
                hint="leave out --generation model",
            )
    sampled = {"temperature": 1.0, **{name: given[name] for name in VALUES if name in given}}
    values = sampled if given.get("do_sample") else {}
    if "repetition_penalty" in given:
        values["repetition_penalty"] = given["repetition_penalty"]
    return values
