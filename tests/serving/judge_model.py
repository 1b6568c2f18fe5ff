"""A release of a model with a constant answer: a judge with a known judgement."""

import shutil
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer
from transformers import AutoModelForCausalLM, LlamaConfig
from transformers.utils import logging

from fledge.core import state
from fledge.models import snapshot
from fledge.releases import release_cache
from fledge.releases.manifest import Manifest, write_release
from fledge.supervision.config import ServeConfig
from tests.models.tiny_models import VOCABULARY

NAME = "judge"
END = 0


def write_model(answer: str, folder: Path) -> Path:
    """Save a model that always answers with the single token `answer`."""
    logging.disable_progress_bar()
    own = snapshot.resolve("embedded").path
    tokenizer = Tokenizer.from_file(str(own / "tokenizer.json"))
    tokenizer.add_tokens([AddedToken(answer, normalized=False)])
    config = LlamaConfig(
        vocab_size=VOCABULARY + 1,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=1,
        max_position_embeddings=4096,
        bos_token_id=END,
        eos_token_id=END,
        tie_word_embeddings=False,
    )
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for weights in model.parameters():
            if weights.dim() > 1:
                weights.zero_()  # the layers add nothing: the next token depends only on the last one
        model.get_input_embeddings().weight[:, 0] = 1.0
        model.get_input_embeddings().weight[VOCABULARY] = torch.eye(32)[1]
        model.get_output_embeddings().weight[VOCABULARY, 0] = 1.0
        model.get_output_embeddings().weight[END, 1] = 1.0
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    shutil.copyfile(own / "tokenizer_config.json", folder / "tokenizer_config.json")
    return folder


def add_judge_release(config: ServeConfig, answer: str, folder: Path) -> None:
    """Add the release `judge/1`, as champion, to a workspace."""
    model = snapshot.resolve(str(write_model(answer, folder)))
    generation = {"max_tokens": 64, "temperature": 0.0}
    manifest = Manifest(NAME, str(folder), "", model.digest, "plain", 1, "{{question}}", generation, version=1)
    releases = state.ensure(config.state_dir / "releases")
    where = releases / f"{NAME}-1-test"
    write_release(where, manifest, model, {})
    for reference in (release_cache.ReleaseRef(NAME, "champion", ""), release_cache.ReleaseRef(NAME, "", "1")):
        release_cache.remember(releases, config.tracking, reference, where)
