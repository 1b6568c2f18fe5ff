"""The transformers engine on a GPU: the library's continuous batching with a paged cache."""

import itertools
from dataclasses import replace
from typing import Any

from transformers import GenerationConfig
from transformers.generation.configuration_utils import ContinuousBatchingConfig

from fledge.core.errors import FledgeError, InputError
from fledge.core.generation import GenerationParams
from fledge.core.types import EngineInfo
from fledge.engines.stream import FinishReason
from fledge.engines.transformers import create_text_config, load
from fledge.engines.worker import GeneratedAnswer, WorkerEngine
from fledge.models.snapshot import Snapshot

MAX_RUNNING = 512
DEFAULT_GB = 1.0
BLOCK_TOKENS = 256
WAIT_S = 0.05


class PagedTransformersEngine(WorkerEngine):
    """Answers join and leave the batch at each step.

    The library samples a batch with one set of settings: an answer with other settings waits until the running ones
    end, and seeds do not make sampling repeatable.
    """

    def __init__(self, model: Snapshot, info: EngineInfo, cache_gb: float) -> None:
        """`cache_gb` is the size of the KV cache on the device in GB, 0 for the default."""
        loaded = load(model, "cuda" if info.device == "gpu" else "cpu")
        self._blocks = max(4, int((cache_gb or DEFAULT_GB) * 1e9 / (BLOCK_TOKENS * _token_bytes(loaded))))
        self._manager: Any = None
        self._settings: tuple[float, ...] = ()
        self._count = itertools.count()
        self._by_handle: dict[str, GeneratedAnswer] = {}
        # A prompt that fills the whole cache would stop the library for good.
        context = min(model.context, (self._blocks - 1) * BLOCK_TOKENS)
        super().__init__(info, create_text_config(replace(model, context=context)))
        self._model = loaded

    def _check(self, params: GenerationParams) -> None:
        super()._check(params)
        if params.repetition_penalty != 1:
            raise InputError(
                "continuous batching in transformers does not support repetition_penalty",
                hint="drop --repetition-penalty, or use --device cpu",
            )

    def _turn(self) -> None:
        self._admit(MAX_RUNNING)
        for answer in self._running:
            if answer.stream.cancelled:
                self._deliver(answer, (), "cancelled")
                self._release(answer)
        self._start_answers([answer for answer in self._running if answer.handle is None and not answer.ended])
        if not self._by_handle:
            return
        if not self._manager.is_running():
            raise FledgeError("the continuous-batching manager of transformers stopped unexpectedly")
        result = self._manager.get_result(timeout=WAIT_S)
        while result is not None:
            self._read_result(result)
            result = self._manager.get_result(timeout=0)

    def _start_answers(self, waiting: list[GeneratedAnswer]) -> None:
        for answer in waiting:
            settings = _sampling_settings(answer)
            if settings != self._settings or self._manager is None or not self._manager.is_running():
                if self._by_handle:
                    return
                self._stop()
                self._settings, self._manager = settings, self._create_manager(answer)
                self._manager.start()
            ends = [] if answer.params.ignore_eos else list(self.text.end_tokens)
            answer.handle = str(next(self._count))
            self._by_handle[answer.handle] = answer
            self._manager.add_request(
                answer.token_ids,
                request_id=answer.handle,
                max_new_tokens=answer.remaining,
                streaming=True,
                eos_token_id=ends or -1,
            )

    def _create_manager(self, answer: GeneratedAnswer) -> Any:
        params = answer.params
        sampling = {
            "temperature": params.temperature,
            "top_p": params.top_p,
            "top_k": params.top_k,
            "min_p": params.min_p or None,
        }
        config = GenerationConfig(
            do_sample=params.samples,
            pad_token_id=next(iter(self.text.end_tokens), 0),
            eos_token_id=-1,  # each request has its own
            **(sampling if params.samples else {}),
        )
        batching = ContinuousBatchingConfig(
            block_size=BLOCK_TOKENS, num_blocks=self._blocks, return_logprobs=params.logprobs
        )
        return self._model.init_continuous_batching(config, continuous_batching_config=batching)

    def _read_result(self, result: Any) -> None:
        answer = self._by_handle.get(result.request_id)
        if answer is None or answer.ended:
            return
        if result.error:
            raise FledgeError(result.error)
        before = len(answer.token_ids) - len(result.prompt_ids)
        new = result.generated_tokens[before:]
        reason: FinishReason | None = None
        if result.is_finished():
            reason = "length" if len(new) == answer.remaining else "stop"
            if new and new[-1] in self.text.end_tokens and not answer.params.ignore_eos:
                reason = "stop"
        logprobs = result.logprobs[before:] if answer.params.logprobs else ()
        if not (new or reason) or not self._deliver(answer, new, reason, logprobs):
            return
        if reason:
            del self._by_handle[answer.handle]
        else:  # a stop sequence, unknown to the library
            self._release(answer)

    def _release(self, answer: GeneratedAnswer) -> None:
        if self._by_handle.pop(answer.handle, None):
            self._manager.cancel_request(answer.handle)

    def _stop(self) -> None:
        if self._manager is not None:
            self._manager.stop(block=True)
            self._model.destroy_cached_continuous_batching_manager()
            self._manager = None

    def _close(self) -> None:
        self._stop()


def _sampling_settings(answer: GeneratedAnswer) -> tuple[float, ...]:
    params = answer.params
    sampling = (params.temperature, params.top_p, params.top_k, params.min_p) if params.samples else ()
    return (params.logprobs, *sampling)


def _token_bytes(model: Any) -> int:
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * size * model.dtype.itemsize)
