"""Compile grammars as OpenVINO's engine does: `python -m fledge.engines.grammar_compiler DESCRIPTOR`.

OpenVINO's pipeline fails every later request after a grammar that it cannot compile, and a step of the engine waits for
the compiler. So this child of the engine compiles each grammar first, in a pipeline whose model does nothing.
"""

import tempfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import openvino
import openvino_genai
import psutil
from openvino import opset13

from fledge.engines.grammar_checker import CompilerConfig
from fledge.engines.guarded_child import Handle, limit_memory, limit_time, serve
from fledge.engines.openvino_tokenizer import load_tokenizer

TIME_LIMIT_S = 2.0
MEMORY_LIMIT_BYTES = 1 << 30


def _prepare(body: bytes) -> Handle:
    config = msgspec.msgpack.decode(body, type=CompilerConfig)
    tokenizer = load_tokenizer(Path(config.folder))
    pipeline = openvino_genai.LLMPipeline(
        *_build_model(config.vocabulary), tokenizer, "CPU", ATTENTION_BACKEND="SDPA", INFERENCE_NUM_THREADS=1
    )
    one = openvino.Tensor(np.array([[0]], dtype=np.int64))
    attended = openvino.Tensor(np.array([[1]], dtype=np.int64))
    limit_memory(psutil.Process().memory_info().vms + MEMORY_LIMIT_BYTES)

    def handle(body: bytes) -> bytes:
        generation = openvino_genai.GenerationConfig(max_new_tokens=1)
        generation.structured_output_config = openvino_genai.StructuredOutputConfig(grammar=body.decode())
        limit_time(TIME_LIMIT_S)
        try:
            pipeline.generate(openvino_genai.TokenizedInputs(one, attended), generation)
        except (RuntimeError, MemoryError, ValueError) as error:
            return _describe(error).encode()
        return b""

    return handle


def _build_model(vocabulary: int) -> tuple[str, Any]:
    """Return a model, as XML and weights, whose logits are 0."""

    def parameter(name: str, rank: int, kind: Any) -> Any:
        found = opset13.parameter([-1] * rank, kind, name=name)
        found.output(0).set_names({name})
        return found

    token_ids = parameter("input_ids", 2, np.int64)
    others = [parameter("attention_mask", 2, np.int64), parameter("position_ids", 2, np.int64)]
    wide = opset13.unsqueeze(opset13.convert(token_ids, "f32"), opset13.constant(np.int64(2)))
    logits = opset13.multiply(wide, opset13.constant(np.zeros((1, 1, vocabulary), np.float32)))
    result = opset13.result(logits)
    result.output(0).set_names({"logits"})
    model = openvino.Model([result], [token_ids, *others, parameter("beam_idx", 1, np.int32)])
    with tempfile.TemporaryDirectory(prefix="fledge-") as folder:
        path = Path(folder, "model.xml")
        openvino.save_model(model, path)
        weights = openvino.Tensor(np.fromfile(path.with_suffix(".bin"), dtype=np.uint8))
        return path.read_text(encoding="utf-8"), weights


def _describe(error: Exception) -> str:
    """Return the compiler's message without its source file."""
    text = str(error).strip().splitlines()
    last = text[-1] if text else type(error).__name__
    return last.rpartition(".cc:")[2].partition(": ")[2][:300] or last[-300:]


if __name__ == "__main__":
    serve(_prepare)
