"""Malicious and broken model folders are refused before anything loads them."""

import json
import os
import pickle
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fledge.core.errors import FledgeError, InputError
from fledge.core.settings import Workspace
from fledge.models import snapshot
from fledge.releases.manifest import Manifest, read_release, snapshot_of, write_release
from tests.conftest import Run
from tests.models import inconsistent_models
from tests.models.broken_models import (
    CASES,
    PARAMETERS,
    TOKENIZER,
    Break,
    add_payloads,
    config,
    edit,
    tensors,
    write_model,
)


def refusal_of(folder: Path, breaking: Break) -> FledgeError:
    """Return the error for a valid model after `breaking` has changed it."""
    add_payloads(write_model(folder))
    breaking(folder)
    with pytest.raises(FledgeError) as caught:
        snapshot.resolve(str(folder))
    assert caught.value.hint
    assert caught.value.message.isprintable()
    assert not (folder.parent / "executed").exists()
    return caught.value


@pytest.mark.timeout(120)
@pytest.mark.parametrize("case", CASES)
def test_a_malicious_or_broken_model_is_refused(case: str, tmp_path: Path) -> None:
    breaking, error, words = CASES[case]
    found = refusal_of(tmp_path / "model", breaking)
    assert type(found) is error
    assert re.search(words, found.message)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("case", inconsistent_models.CASES)
def test_an_inconsistent_model_is_refused(case: str, tmp_path: Path) -> None:
    breaking, words = inconsistent_models.CASES[case]
    found = refusal_of(tmp_path / "model", breaking)
    assert isinstance(found, InputError)
    assert words in found.message


@pytest.mark.parametrize("case", inconsistent_models.UNUSUAL)
def test_an_unusual_model_is_accepted(case: str, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    inconsistent_models.UNUSUAL[case](folder)
    snapshot.resolve(str(folder))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "README.md"])
def test_a_pipe_is_refused_without_blocking(name: str, tmp_path: Path) -> None:
    """In a subprocess: a library that opens a pipe cannot be interrupted."""
    folder = write_model(tmp_path / "model")
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    program = "import sys; from fledge.models import snapshot; snapshot.resolve(sys.argv[1])"
    command = [sys.executable, "-c", program, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert f"InputError: {folder}/{name} is not a regular file" in done.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "."])
def test_an_unreadable_file_is_refused_with_a_hint(name: str, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    (folder / name).chmod(0)
    with pytest.raises(FledgeError) as caught:
        snapshot.resolve(str(folder))
    folder.chmod(0o700)
    assert caught.value.hint


def test_the_unchanged_model_is_accepted(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    add_payloads(folder)
    model = snapshot.resolve(str(folder))
    assert (model.parameters, model.vocabulary, model.context, model.end_tokens) == (PARAMETERS, 40, 16, (0,))
    assert model.files == ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    assert not (tmp_path / "executed").exists()


def test_unpickling_the_payload_leaves_a_trace(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    add_payloads(folder)
    pickle.loads((folder / "pytorch_model.bin").read_bytes())  # noqa: S301 (our own payload)
    assert (tmp_path / "executed").exists()


def test_importing_the_payload_leaves_a_trace(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    add_payloads(folder)
    runpy.run_path(str(folder / "evil.py"))
    assert (tmp_path / "executed").exists()


def test_computed_positions_are_not_limited_by_the_weights(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    window = 2**22
    changes = {"rope_theta": 1e6, "max_position_embeddings": window, "n_positions": None}
    config(architectures=["GPTJForCausalLM"], model_type="gptj", **changes)(folder)
    assert snapshot.resolve(str(folder)).context == window


def test_a_token_may_have_the_name_of_a_refused_key(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    (folder / "vocab.json").write_text('{"auto_map": 0, "trust_remote_code": 1}')
    words = {"auto_map": 1, **{word: number for word, number in TOKENIZER["model"]["vocab"].items() if number != 1}}
    edit("tokenizer.json", model={**TOKENIZER["model"], "vocab": words})(folder)
    assert "vocab.json" in snapshot.resolve(str(folder)).files


def test_shards_are_found_through_the_index(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    (folder / "old.safetensors").write_bytes(b"not used, not opened")
    weight_map = dict.fromkeys(tensors(), "part.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    model = snapshot.resolve(str(folder))
    assert model.parameters == PARAMETERS
    assert "old.safetensors" not in model.files


def test_a_link_within_the_folder_is_accepted(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "blob")
    (folder / "model.safetensors").symlink_to("blob")
    assert snapshot.resolve(str(folder)).parameters == PARAMETERS


def test_a_release_is_checked_like_a_model(tmp_path: Path) -> None:
    """It may have been registered before a check existed."""
    folder = write_model(tmp_path / "model")
    model = snapshot.resolve(str(folder))
    inconsistent_models.set_last("transformer.ln_f.bias", np.nan)(folder)
    manifest = Manifest("mine", "model", "", model.digest, "simple", 1, "{{question}}", {})
    manifest = write_release(tmp_path / "release", manifest, model, {})
    with pytest.raises(InputError, match=r"model\.safetensors is broken: the tensor .* contains NaN"):
        snapshot_of(tmp_path / "release", read_release(tmp_path / "release"))


@pytest.mark.parametrize("command", [("experiment", "--limit", "1"), ("register",)])
def test_the_command_line_error_names_file_and_value(
    command: tuple[str, ...], fledge: Run, workspace: Workspace
) -> None:
    folder = write_model(Path("model").absolute())
    config(n_head=3)(folder)
    done = fledge(*command, "--model", str(folder))
    assert done.returncode == InputError.exit_code
    assert done.stderr.startswith(
        f"error: {folder}/config.json has 'n_head' 3, which does not divide n_embd (8)\ntry: "
    )
    assert not done.stdout
