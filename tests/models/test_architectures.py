"""The tensors that a config implies are those that transformers creates."""

import random
import re
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.activations import ACT2FN
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from fledge.core.errors import InputError
from fledge.models import config_fields
from fledge.models.architectures import FAMILIES, check_model_type, check_tensors
from fledge.models.snapshot import CAUSAL
from fledge.models.weights import Tensor

TYPES = {
    "GPT2LMHeadModel": "gpt2",
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
SEEDS = 12


def draw_config(architecture: str, seed: int) -> dict[str, Any]:
    """Return a small random config of an architecture; some fields keep their defaults."""
    pick = random.Random(f"{architecture}{seed}")
    base = {"architectures": [architecture], "model_type": TYPES[architecture], "vocab_size": 40}
    if pick.random() < 0.7:
        base["tie_word_embeddings"] = pick.random() < 0.5
    if architecture == "GPT2LMHeadModel":
        named = ("hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings")
        names = pick.choice([("n_embd", "n_layer", "n_head", "n_positions"), named])
        sizes = dict(zip(names, (pick.choice([8, 16]), pick.randint(1, 3), 2, pick.choice([4, 32])), strict=True))
        return base | sizes | pick.choice([{}, {"n_inner": None}, {"n_inner": 12}])
    heads = pick.choice([2, 4])
    base |= {"hidden_size": 8 * heads, "num_hidden_layers": pick.randint(1, 3), "num_attention_heads": heads}
    base |= {"intermediate_size": 24, "num_key_value_heads": pick.choice([1, heads])}
    base |= pick.choice([{}, {"head_dim": 6}, {"head_dim": 128}])
    if architecture != "MistralForCausalLM" and pick.random() < 0.3:
        base["num_key_value_heads"] = None  # as many as heads
    base |= pick.choice([{}, {"attention_bias": True}, {"attention_bias": False, "mlp_bias": True}])
    return base


def tensors_of(config: dict[str, Any]) -> dict[str, Tensor]:
    """Return the tensors that transformers would save."""
    content = {name: value for name, value in config.items() if name != "model_type"}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(config["model_type"], **content))
    named = dict(model.state_dict())
    for name in model.all_tied_weights_keys:
        named.pop(name)
    return {name: Tensor("model.safetensors", "F32", tuple(value.shape), 0, 0) for name, value in named.items()}


def test_every_family_is_tested() -> None:
    assert TYPES.keys() == FAMILIES.keys()


@pytest.mark.parametrize("architecture", TYPES)
def test_expected_tensors_match_transformers(architecture: str) -> None:
    for seed in range(SEEDS):
        config = draw_config(architecture, seed)
        found = tensors_of(config)
        check_tensors(config, found, "model")
        pick = random.Random(seed)
        name = pick.choice(list(found))
        for changed, words in (
            ({key: value for key, value in found.items() if key != name}, f"lacks the tensor '{name}'"),
            (found | {name: found[name]._replace(shape=(*found[name].shape, 1))}, f"has the tensor '{name}' of shape"),
            (found | {f"{name}.copy": found[name]}, f"has the tensor '{name}.copy', which config.json does not imply"),
        ):
            with pytest.raises(InputError, match=re.escape(words)):
                check_tensors(config, changed, "model")


def test_model_types_match_transformers() -> None:
    for kind, named in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.items():
        for architecture in [named] if isinstance(named, str) else named:
            if CAUSAL.fullmatch(architecture):
                check_model_type({"architectures": [architecture], "model_type": kind}, "config.json")


def test_names_of_activations_and_ropes_match_transformers() -> None:
    assert set(ACT2FN) == config_fields.ACTIVATIONS
    assert set(ROPE_INIT_FUNCTIONS) <= config_fields.ROPE_TYPES
