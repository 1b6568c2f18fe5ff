"""Tiny models of several architectures, with random weights and the tokenizer of the embedded model."""

import shutil
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPTNeoXConfig, LlamaConfig, PreTrainedConfig, Qwen3Config
from transformers.utils import logging

from fledge.models import snapshot

VOCABULARY = 2048
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "tie_word_embeddings": False,
    "initializer_range": 0.2,  # larger than usual, so that answers differ and have few near ties
}
CONFIGS: dict[str, PreTrainedConfig] = {
    "gpt2": GPT2Config(
        vocab_size=VOCABULARY, n_embd=64, n_layer=2, n_head=4, n_positions=256, initializer_range=0.2,
        bos_token_id=0, eos_token_id=0,
    ),
    "llama": LlamaConfig(**SHAPE, num_key_value_heads=2),
    "qwen3": Qwen3Config(**SHAPE, num_key_value_heads=2, head_dim=16),
    "gpt_neox": GPTNeoXConfig(**SHAPE),
}  # fmt: skip


def write_model(kind: str, folder: Path) -> Path:
    """Save a model of one of `CONFIGS` with the embedded model's tokenizer; returns `folder`."""
    logging.disable_progress_bar()
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(CONFIGS[kind]).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(snapshot.resolve("embedded").path / name, folder / name)
    return folder
