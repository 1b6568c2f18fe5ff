"""Texts of a grammar, drawn by OpenVINO's compiler and a model of random weights."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import openvino
import openvino_genai
from openvino import opset13
from tokenizers import Tokenizer

from fledge.engines.openvino_tokenizer import load_tokenizer
from fledge.models.snapshot import Snapshot

LIMIT = 300
CLOSING = 6.0  # preference for tokens that close, so that most texts end
SHORT = 2.0
END = 8.0
BLANK = -4.0


class GrammarSampler:
    """Draws texts; the logits depend on the token before and its position alone."""

    def __init__(self, model: Snapshot, folder: Path) -> None:
        """`folder` has the exported `model`."""
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._end = model.end_tokens[0]
        with TemporaryDirectory() as scratch:
            path = Path(scratch, "model.xml")
            openvino.save_model(self._build(model.vocabulary), path, compress_to_fp16=False)
            weights = openvino.Tensor(np.fromfile(path.with_suffix(".bin"), dtype=np.uint8))
            text = path.read_text(encoding="utf-8")
        tokenizer = load_tokenizer(folder)
        self._pipeline = openvino_genai.LLMPipeline(text, weights, tokenizer, "CPU", ATTENTION_BACKEND="SDPA")

    def draw(self, grammar: str, seed: int) -> str | None:
        """Return a text of the grammar, None if it did not end."""
        config = openvino_genai.GenerationConfig(max_new_tokens=LIMIT, do_sample=True, temperature=1.0, rng_seed=seed)
        config.stop_token_ids = {self._end}
        config.structured_output_config = openvino_genai.StructuredOutputConfig(grammar=grammar)
        start = openvino.Tensor(np.array([[5 + seed]]))
        inputs = openvino_genai.TokenizedInputs(start, openvino.Tensor(np.array([[1]])))
        (token_ids,) = self._pipeline.generate(inputs, config).tokens
        return None if len(token_ids) >= LIMIT else str(self._tokenizer.decode(token_ids))

    def _build(self, vocabulary: int) -> Any:
        def parameter(name: str, rank: int, kind: Any) -> Any:
            found = opset13.parameter([-1] * rank, kind, name=name)
            found.output(0).set_names({name})
            return found

        token_ids, position = parameter("input_ids", 2, np.int64), parameter("position_ids", 2, np.int64)
        others = [parameter("attention_mask", 2, np.int64), parameter("beam_idx", 1, np.int32)]
        place = opset13.multiply(opset13.convert(position, "f32"), opset13.constant(np.float32(7.3)))
        state = opset13.unsqueeze(opset13.add(opset13.convert(token_ids, "f32"), place), opset13.constant(np.int64(2)))
        weights = np.random.default_rng(0).normal(size=(1, 1, vocabulary)).astype(np.float32) * 10
        noise = opset13.multiply(opset13.sin(opset13.multiply(state, opset13.constant(weights))), np.float32(3))
        logits = opset13.add(noise, opset13.constant(self._preferences(vocabulary)))
        result = opset13.result(logits)
        result.output(0).set_names({"logits"})
        return openvino.Model([result], [token_ids, position, *others], "random")

    def _preferences(self, vocabulary: int) -> Any:
        found = np.zeros((1, 1, vocabulary), np.float32)
        for token in range(self._tokenizer.get_vocab_size()):
            text = self._tokenizer.decode([token], skip_special_tokens=False)
            found[0, 0, token] += CLOSING * any(letter in text for letter in '"}],') + SHORT * (len(text) < 3)
            found[0, 0, token] += BLANK * (bool(text) and not text.strip())
        found[0, 0, self._end] += END
        return found
