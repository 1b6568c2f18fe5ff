"""The OpenVINO engine: continuous batching with prefix caching.

Exact mode uses fp32 for weights, cache and arithmetic; fast mode has int8 weights and quantises activations.
"""

import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import openvino_genai

from fledge.core.errors import FledgeError, InputError, StructureError
from fledge.core.generation import ENGINE_SETTINGS
from fledge.core.messages import TokenScore
from fledge.core.types import EngineInfo
from fledge.engines.grammar_checker import GrammarChecker
from fledge.engines.guarded_child import GuardedChild
from fledge.engines.memory import cache_blocks
from fledge.engines.openvino_scorer import TokenScorer
from fledge.engines.openvino_tokenizer import TOKENIZER, load_tokenizer
from fledge.engines.prefill import CHUNK_TOKENS, PrefillQueue
from fledge.engines.stream import FinishReason
from fledge.engines.text import TextConfig
from fledge.engines.worker import GeneratedAnswer, WorkerEngine
from fledge.models.snapshot import Snapshot

# Weights mapped from a file would change with the file under a running engine.
FAST: dict[str, Any] = {"ENABLE_MMAP": False, "KV_CACHE_PRECISION": "u8"}
EXACT: dict[str, Any] = {**FAST, "KV_CACHE_PRECISION": "f32", "INFERENCE_PRECISION_HINT": "f32"}

NO_TOKENIZER_HINT = "register the model again; for one that is no release, remove its folder in the cache"

_REASONS: dict[Any, FinishReason] = {
    openvino_genai.GenerationFinishReason.STOP: "stop",
    openvino_genai.GenerationFinishReason.LENGTH: "length",
}


def check_device(device: str) -> None:
    """Raise `InputError` if OpenVINO does not have this device."""
    available = [name.split(".")[0].lower() for name in openvino.Core().available_devices]
    if device not in available:
        raise InputError(
            f"OpenVINO has no device {device!r} here; available: {', '.join(available)}", hint="--device cpu"
        )


class OpenVINOEngine(WorkerEngine):
    """Runs all answers in one batch; a step of the pipeline holds the GIL."""

    supported = ENGINE_SETTINGS

    def __init__(self, model: Snapshot, folder: Path, info: EngineInfo, cache_gb: float) -> None:
        """`folder` has the exported model; `cache_gb` is the size of the KV cache in GB, 0 for the default."""
        super().__init__(info, TextConfig.of(model, (folder / "tokenizer.json").read_text(encoding="utf-8")))
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.num_kv_blocks = cache_blocks(model, info.mode, cache_gb)
        scheduler.enable_prefix_caching = True
        self._properties = EXACT if info.mode == "exact" else FAST
        self._checker: GrammarChecker | None = None
        self._enforces_grammars = (folder / TOKENIZER).is_file()
        pipeline, device = openvino_genai.ContinuousBatchingPipeline, info.device.upper()
        if self._enforces_grammars:
            self._pipeline = pipeline(str(folder), load_tokenizer(folder), scheduler, device, **self._properties)
        else:
            self._pipeline = pipeline(str(folder), scheduler, device, self._properties)
        self._count = 0
        self._prefills = PrefillQueue()
        self._tried_alone: weakref.WeakSet[GeneratedAnswer] = weakref.WeakSet()
        self._folder = folder
        self._scorer: TokenScorer | None = None

    @property
    def children(self) -> Sequence[GuardedChild]:
        return [self.encoder, *([self._checker] if self._checker else [])]

    def _check_grammar(self, grammar: str, done: Callable[[InputError | None], None]) -> None:
        if not self._enforces_grammars:
            raise StructureError("this export of the model has no tokenizer for structured outputs", NO_TOKENIZER_HINT)
        if self._checker is None:  # takes some memory, and most endpoints never need it
            self._checker = GrammarChecker(self._folder, self.text.vocabulary)
        self._checker.check(grammar, done)

    def _turn(self) -> None:
        if not any(answer.handle is not None for answer in self._running):
            self._sweep()
        for answer in self._admit(limit=256):
            if len(answer.token_ids) > CHUNK_TOKENS:
                self._prefills.add(answer, len(answer.token_ids))
            else:
                self._start(answer)
        for answer in self._running:
            if answer.stream.cancelled and not answer.ended:
                self._deliver(answer, (), "cancelled")
                self._release(answer)
        self._advance_prefills()
        if any(not answer.ended for answer in self._running):
            self._pipeline.step()
        for answer in list(self._running):
            if not answer.ended and answer.handle is not None:
                self._read_output(answer)
        if all(answer.ended for answer in self._running):
            self._sweep()

    def _start(self, answer: GeneratedAnswer) -> None:
        try:
            answer.handle = self._add_request(answer.token_ids, self._create_config(answer))
        except RuntimeError as error:  # the pipeline rejected this request only
            self._fail(answer, error)

    def _add_request(self, token_ids: Sequence[int], config: Any) -> Any:
        self._count += 1
        return self._pipeline.add_request(self._count, openvino.Tensor(np.array([token_ids], dtype=np.int64)), config)

    def _advance_prefills(self) -> None:
        """Compute the next part of a long prompt, as a request for one token that leaves the rest in the prefix cache.

        The pipeline computes prompts in their order, so a short one would wait for all of a long one.
        """
        current = self._prefills.current
        if current is not None:
            if current.handle.get_status() == openvino_genai.GenerationStatus.RUNNING:
                return
            current.done, current.handle = current.end, None
        chosen = self._prefills.choose(alone=all(answer.handle is None for answer in self._running))
        if chosen is None:
            return
        if chosen.end == chosen.tokens:
            self._prefills.remove(chosen.answer)
            self._start(chosen.answer)
        else:
            part = chosen.answer.token_ids[: chosen.end]
            chosen.handle = self._add_request(part, openvino_genai.GenerationConfig(max_new_tokens=1))

    def _score(self, token_ids: Sequence[int], top: int) -> list[TokenScore]:
        if self._scorer is None:  # takes as much memory as the weights, and is seldom asked for
            self._scorer = TokenScorer(self._folder, self.info.device.upper(), self._properties)
        return [
            TokenScore(
                self._decode_token(token_id),
                score.logprob,
                tuple((self._decode_token(other), value) for other, value in score.top),
            )
            for token_id, score in zip(token_ids[1:], self._scorer.score(token_ids, top), strict=True)
        ]

    def _sweep(self) -> None:
        """Run a step for cancelled requests, so that the pipeline frees their cache."""
        if self._pipeline.has_non_finished_requests():
            self._pipeline.step()

    def _release(self, answer: GeneratedAnswer) -> None:
        prefill = self._prefills.remove(answer)
        if prefill is not None and prefill.handle is not None:
            prefill.handle.cancel()
        if answer.handle is not None:
            answer.handle.cancel()

    def _close(self) -> None:
        if self._checker is not None:
            self._checker.close()
        self._sweep()

    def _retry_later(self, answer: GeneratedAnswer) -> None:
        """Queue an answer again that the cache has no room for; it goes on where it was.

        The pipeline may say so of any answer while cancelled ones still take blocks. It is true of one that is alone.
        """
        alone = not any(other is not answer and other.handle is not None for other in self._running)
        if alone and answer in self._tried_alone:
            what = "answer" if answer.generated else "prompt"
            self._fail(answer, FledgeError(f"the {what} does not fit in its cache", hint="raise --cache-gb"))
            return
        if alone:
            self._tried_alone.add(answer)
        answer.handle = None
        self._running.remove(answer)
        self._waiting.appendleft(answer)

    def _create_config(self, answer: GeneratedAnswer) -> Any:
        params = answer.params
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = answer.remaining
        config.ignore_eos = params.ignore_eos
        config.stop_token_ids = set() if params.ignore_eos else set(self.text.end_tokens)
        config.stop_token_ids |= set(params.stop_token_ids)
        config.min_new_tokens = min(answer.remaining, max(0, params.min_tokens - len(answer.generated)))
        config.repetition_penalty = params.repetition_penalty
        config.presence_penalty = params.presence_penalty
        config.frequency_penalty = params.frequency_penalty
        config.logprobs = int(params.logprobs)
        if params.grammar:
            config.structured_output_config = openvino_genai.StructuredOutputConfig(grammar=params.grammar)
        config.do_sample = params.samples
        if config.do_sample:
            config.temperature = params.temperature
            config.top_p = params.top_p
            config.min_p = params.min_p
            config.rng_seed = params.seed
            if params.top_k:
                config.top_k = params.top_k
        return config

    def _read_output(self, answer: GeneratedAnswer) -> None:
        if answer.handle.get_status() == openvino_genai.GenerationStatus.IGNORED:
            self._retry_later(answer)
            return
        while answer.handle.can_read() and not answer.ended:
            for output in answer.handle.read().values():
                logprobs = output.generated_log_probs if answer.params.logprobs else ()
                self._deliver(answer, output.generated_ids, _REASONS.get(output.finish_reason), logprobs)
        if answer.ended:
            self._release(answer)
