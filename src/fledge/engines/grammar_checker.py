"""Check grammars in a child process: `python -m fledge.engines.grammar_checker DESCRIPTOR`.

OpenVINO's pipeline fails every later request after a grammar that it cannot compile, and a step of the engine waits for
the compiler. The child compiles each grammar first, with the same library, in a pipeline whose model does nothing.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import psutil

from fledge.core.errors import FledgeError, InputError, StructureError
from fledge.engines.guarded_child import GuardedChild, Handle, limit_memory, limit_time, serve

TIME_LIMIT_S = 2.0
MEMORY_LIMIT_BYTES = 1 << 30
MAX_REMEMBERED = 1_000

Done = Callable[[InputError | None], None]


class _Config(msgspec.Struct):
    """A folder with OpenVINO's tokenizer, and the size of the model's vocabulary."""

    folder: str
    vocabulary: int


class GrammarChecker(GuardedChild):
    """Compiles grammars, in order; the last results are remembered."""

    module = __name__

    def __init__(self, folder: Path, vocabulary: int) -> None:
        super().__init__(msgspec.msgpack.encode(_Config(str(folder), vocabulary)))
        self._results: dict[str, InputError | None] = {}

    def check(self, grammar: str, done: Done) -> None:
        """Call `done` with None for a grammar that can be used, else with the error."""
        if grammar in self._results:
            done(self._results[grammar])
            return

        def receive(reply: bytes | FledgeError) -> None:
            error: InputError | None = None
            if isinstance(reply, InputError):
                error = reply
            elif reply:
                error = StructureError(f"invalid grammar: {bytes(reply).decode()}")  # type: ignore[arg-type]
            if len(self._results) >= MAX_REMEMBERED:
                self._results.clear()
            self._results[grammar] = error
            done(error)

        self.submit(grammar.encode(), receive)

    def _explain_death(self, limit: str) -> FledgeError:
        return StructureError(f"the grammar takes {limit} to compile")

    def _explain_no_start(self) -> FledgeError:
        return FledgeError("the compiler of grammars cannot be started", hint="fledge doctor")


def _prepare(body: bytes) -> Handle:
    import numpy as np
    import openvino
    import openvino_genai

    from fledge.engines.openvino import load_grammar_tokenizer

    config = msgspec.msgpack.decode(body, type=_Config)
    tokenizer = load_grammar_tokenizer(Path(config.folder))
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


def _build_model(vocabulary: int) -> "tuple[str, Any]":
    """Return a model, as XML and weights, whose logits are 0."""
    import numpy as np
    import openvino
    from openvino import opset13

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
