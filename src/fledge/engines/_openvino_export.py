"""Steps of an export to OpenVINO: `python -m fledge.engines._openvino_export STEP ARGUMENT...`. Each is a process, so
that torch never stays in an engine's memory. Lines `progress STAGE` on stdout report progress."""

import json
import math
import sys
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from fledge.core.errors import FledgeError
from fledge.models import weights
from fledge.models.embedded.corpus import load_corpus
from fledge.models.weights import Tensor

MODEL = "openvino_model.xml"
SAMPLE_TOKENS = 2048
WINDOW_TOKENS = 256
QUESTIONS = 16
ANSWER_TOKENS = 32


def exact(snapshot: str, source: str, vocabulary: str, out: str) -> None:
    """Write the OpenVINO model, in the precision of the saved weights, and `tokenizer.json` to the folder `out`.

    Raises `InputError` if the snapshot is inconsistent; `source` names it in errors.
    """
    _report_stage("loading torch and transformers")
    import torch
    from optimum.exporters.openvino import export_from_model

    from fledge.engines.transformers_load import load_model, load_tokenizer

    tokenizer = load_tokenizer(Path(snapshot), source, int(vocabulary))
    saved = {tensor.dtype for tensor in _read_tensors(Path(snapshot), source)} & weights.FLOATS.keys()
    half = {"F16": torch.float16, "BF16": torch.bfloat16}.get(*saved) if len(saved) == 1 else None
    model = load_model(Path(snapshot), source, half or torch.float32)
    _report_stage("converting")
    export_from_model(model, out, task="text-generation-with-past", patch_16bit_model=half is not None)
    tokenizer.save_pretrained(out)
    _report_stage("converting the tokenizer")
    _convert_tokenizer(tokenizer, Path(out))


def _convert_tokenizer(tokenizer: Any, out: Path) -> None:
    """Write OpenVINO's tokenizer, which structured outputs need. Few kinds of tokenizer cannot be converted."""
    import openvino
    from openvino_tokenizers import convert_tokenizer

    from fledge.engines.openvino_tokenizer import DETOKENIZER, TOKENIZER

    try:
        converted = convert_tokenizer(tokenizer, with_detokenizer=True)
    except Exception as error:  # noqa: BLE001 (of any kind: the model answers without it)
        sys.stderr.write(f"no structured outputs: the tokenizer cannot be converted: {error}\n")
        return
    for model, name in zip(converted, (TOKENIZER, DETOKENIZER), strict=True):
        openvino.save_model(model, out / name)


def _read_tensors(folder: Path, source: str) -> Iterable[Tensor]:
    names = [path.name for path in folder.iterdir()]
    return weights.read(folder, weights.list_files(folder, names, source), source).tensors.values()


def fast(exact_folder: str, out: str) -> None:
    """Write the model of an exact export with int8 weights to the folder `out`."""
    _report_stage("loading the compressor")
    import nncf
    import openvino

    _report_stage("compressing")
    source, target = Path(exact_folder), Path(out)
    target.mkdir()
    model = openvino.Core().read_model(source / MODEL)
    compressed = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM)
    _report_stage("writing")
    openvino.save_model(compressed, target / MODEL, compress_to_fp16=False)
    for path in source.iterdir():
        if path.is_file() and not path.name.startswith("openvino_model"):
            (target / path.name).write_bytes(path.read_bytes())


def measure(exact_folder: str, fast_folder: str) -> None:
    """Compare the fast model with the exact one and write the result to its `gate.json`."""
    _report_stage("measuring the accuracy of int8")
    from fledge.engines.openvino import EXACT, FAST
    from fledge.engines.text import open_tokenizer

    entries = load_corpus()
    tokenizer = open_tokenizer((Path(exact_folder) / "tokenizer.json").read_text(encoding="utf-8"))
    tokens = tokenizer.encode("\n".join(entry.answer for entry in entries)).ids[:SAMPLE_TOKENS]
    questions = [tokenizer.encode(text).ids for entry in entries for text in entry.held_out][:QUESTIONS]
    loss, greedy = zip(
        *(
            (_compute_loss(folder, properties, tokens), _generate_greedily(folder, properties, questions))
            for folder, properties in ((exact_folder, EXACT), (fast_folder, FAST))
        ),
        strict=True,
    )
    pairs = [pair for rows in zip(*greedy, strict=True) for pair in zip(*rows, strict=True)]
    content = {
        "perplexity_exact": math.exp(loss[0]),
        "perplexity_fast": math.exp(loss[1]),
        "perplexity_ratio": math.exp(loss[1] - loss[0]),
        "token_agreement": sum(a == b for a, b in pairs) / len(pairs),
        "text_tokens": len(tokens),
        "answer_tokens": len(pairs),
    }
    (Path(fast_folder) / "gate.json").write_text(json.dumps(content, indent=1), encoding="utf-8")


def _compute_loss(folder: str, properties: dict[str, Any], tokens: list[int]) -> float:
    """Return the mean negative log-likelihood of a text, in nats per token."""
    import openvino

    compiled = openvino.Core().compile_model(Path(folder) / MODEL, "CPU", properties)
    request = compiled.create_infer_request()
    known = {name for item in compiled.inputs for name in item.get_names()}
    total, count = 0.0, 0
    for start in range(0, len(tokens) - 1, WINDOW_TOKENS):
        window = np.array([tokens[start : start + WINDOW_TOKENS]], dtype=np.int64)
        inputs = {
            "input_ids": window,
            "attention_mask": np.ones_like(window),
            "position_ids": np.arange(window.shape[1], dtype=np.int64)[None],
            "beam_idx": np.zeros(1, dtype=np.int32),
        }
        request.reset_state()
        request.infer({name: value for name, value in inputs.items() if name in known})
        logits = request.get_tensor("logits").data[0, :-1].astype(np.float64)
        logits -= logits.max(axis=-1, keepdims=True)
        chosen = np.take_along_axis(logits, window[0, 1:, None], axis=-1)[:, 0]
        total += float((np.log(np.exp(logits).sum(axis=-1)) - chosen).sum())
        count += len(chosen)
    return total / count


def _generate_greedily(folder: str, properties: dict[str, Any], prompts: list[list[int]]) -> list[list[int]]:
    import openvino
    import openvino_genai

    scheduler = openvino_genai.SchedulerConfig()
    scheduler.cache_size = 1
    pipeline = openvino_genai.ContinuousBatchingPipeline(folder, scheduler, "CPU", properties)
    config = openvino_genai.GenerationConfig(max_new_tokens=ANSWER_TOKENS, ignore_eos=True)
    inputs = [openvino.Tensor(np.array([ids], dtype=np.int64)) for ids in prompts]
    return [result.m_generation_ids[0] for result in pipeline.generate(inputs, [config] * len(inputs))]


def _report_stage(name: str) -> None:
    _write_message("progress", name)


def _write_message(kind: str, text: str) -> None:
    sys.stdout.write(f"\n{kind} {text}\n")
    sys.stdout.flush()


def main() -> None:
    """Run one step. A refused model is a line `refused JSON`; other errors are the last line of stderr."""
    warnings.filterwarnings("ignore")
    steps: dict[str, Callable[..., None]] = {"exact": exact, "fast": fast, "measure": measure}
    try:
        steps[sys.argv[1]](*sys.argv[2:])
    except FledgeError as error:
        _write_message(
            "refused", json.dumps({"kind": type(error).__name__, "message": error.message, "hint": error.hint})
        )
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
