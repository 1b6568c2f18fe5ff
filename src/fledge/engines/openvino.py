"""The OpenVINO engine: continuous batching with prefix caching.

Exact mode keeps weights, cache and arithmetic in fp32; fast mode has int8 weights and quantises as it computes.
"""

from pathlib import Path
from typing import Any

import numpy as np
import openvino
import openvino_genai

from fledge.core.errors import FledgeError, InputError
from fledge.core.types import EngineInfo
from fledge.engines.engine import FinishReason
from fledge.engines.memory import cache_blocks
from fledge.engines.text import TextConfig
from fledge.engines.worker import GeneratedAnswer, WorkerEngine
from fledge.models.snapshot import Snapshot

# Weights mapped from a file would change under a running engine with the file.
FAST: dict[str, Any] = {"ENABLE_MMAP": False, "KV_CACHE_PRECISION": "u8"}
EXACT: dict[str, Any] = {**FAST, "KV_CACHE_PRECISION": "f32", "INFERENCE_PRECISION_HINT": "f32"}

_REASONS: dict[Any, FinishReason] = {
    openvino_genai.GenerationFinishReason.STOP: "stop",
    openvino_genai.GenerationFinishReason.LENGTH: "length",
}


def check_device(device: str) -> None:
    """Raise `InputError` if OpenVINO has no such device here."""
    have = [name.split(".")[0].lower() for name in openvino.Core().available_devices]
    if device not in have:
        raise InputError(f"OpenVINO has no device {device!r} here; available: {', '.join(have)}", hint="--device cpu")


class OpenVINOEngine(WorkerEngine):
    """Steps all answers together. `step` holds Python's lock."""

    def __init__(self, model: Snapshot, folder: Path, info: EngineInfo, cache_gb: float) -> None:
        """`folder` is the exported model; `cache_gb` is what keys and values may take, in GB, 0 for the usual."""
        super().__init__(info, TextConfig.of(model, (folder / "tokenizer.json").read_text(encoding="utf-8")))
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.num_kv_blocks = cache_blocks(model, info.mode, cache_gb)
        scheduler.enable_prefix_caching = True
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(
            str(folder), scheduler, info.device.upper(), EXACT if info.mode == "exact" else FAST
        )
        self._count = 0

    def _turn(self) -> None:
        for answer in self._take(limit=256):
            self._count += 1
            tokens = openvino.Tensor(np.array([answer.token_ids], dtype=np.int64))
            try:
                answer.handle = self._pipeline.add_request(self._count, tokens, self._config(answer))
            except RuntimeError as error:  # it was not taken, and harms nobody else
                self._fail(answer, error)
        for answer in self._running:
            if answer.stream.cancelled and not answer.ended:
                self._deliver(answer, (), "cancelled")
                self._release(answer)
        if any(not answer.ended for answer in self._running):
            self._pipeline.step()
        for answer in self._running:
            if not answer.ended:
                self._read(answer)
        if all(answer.ended for answer in self._running):
            self._sweep()

    def _sweep(self) -> None:
        """Let the pipeline see that requests were cancelled: it frees their part of the cache at its next step."""
        if self._pipeline.has_non_finished_requests():
            self._pipeline.step()

    def _release(self, answer: GeneratedAnswer) -> None:
        if answer.handle is not None:
            answer.handle.cancel()

    def _shut(self) -> None:
        self._sweep()

    def _config(self, answer: GeneratedAnswer) -> Any:
        params = answer.params
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = answer.room
        config.ignore_eos = params.ignore_eos
        config.stop_token_ids = set() if params.ignore_eos else set(self.text.end_tokens)
        config.repetition_penalty = params.repetition_penalty
        config.logprobs = int(params.logprobs)
        config.do_sample = params.samples
        if config.do_sample:
            config.temperature = params.temperature
            config.top_p = params.top_p
            config.min_p = params.min_p
            config.rng_seed = params.seed
            if params.top_k:
                config.top_k = params.top_k
        return config

    def _read(self, answer: GeneratedAnswer) -> None:
        if answer.handle.get_status() == openvino_genai.GenerationStatus.IGNORED:
            raise FledgeError("the prompt does not fit in the engine's cache", hint="raise --cache-gb")
        while answer.handle.can_read() and not answer.ended:
            for output in answer.handle.read().values():
                logprobs = output.generated_log_probs if answer.params.logprobs else ()
                self._deliver(answer, output.generated_ids, _REASONS.get(output.finish_reason), logprobs)
        if answer.ended:
            self._release(answer)
