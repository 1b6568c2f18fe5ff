"""The transformers engine on a CPU: any architecture of the library, in padded batches.

`generate` computes the logits of a batch. Penalty, sampling, seed and end are handled row by row, so that requests
with different settings share a batch.
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import GenerationConfig
from transformers.generation.logits_process import (
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.generation.stopping_criteria import StoppingCriteria, StoppingCriteriaList

from fledge.core.generation import GenerationParams
from fledge.core.types import EngineInfo
from fledge.engines.stream import FinishReason
from fledge.engines.text import TextConfig
from fledge.engines.transformers_load import load_model, load_tokenizer
from fledge.engines.worker import GeneratedAnswer, WorkerEngine
from fledge.models.snapshot import Snapshot

MAX_BATCH = 64


class TransformersEngine(WorkerEngine):
    """Generates one batch after another; requests that arrive meanwhile form the next batch.

    A batch ends when its longest row fills the model's window, because positions also advance for rows that have
    ended. Its unfinished answers continue in the next batch.
    """

    def __init__(self, model: Snapshot, info: EngineInfo) -> None:
        super().__init__(info, create_text_config(model))
        self._model = load(model, "cpu")

    def _turn(self) -> None:
        self._admit(MAX_BATCH)
        batch = [answer for answer in self._running if not answer.ended]
        if not batch:
            return
        for answer in batch:
            answer.handle = answer.handle or _Row(answer)
        rows = [answer.handle for answer in batch]
        longest = max(len(answer.token_ids) for answer in batch)
        pad = next(iter(self.text.end_tokens), 0)
        tokens = torch.full((len(rows), longest), pad)
        mask = torch.zeros_like(tokens)
        for number, answer in enumerate(batch):
            start = longest - len(answer.token_ids)
            tokens[number, start:] = torch.tensor(answer.token_ids)
            mask[number, start:] = 1
        with torch.inference_mode():
            self._model.generate(
                input_ids=tokens,
                attention_mask=mask,
                generation_config=GenerationConfig(
                    max_new_tokens=min(max(answer.remaining for answer in batch), self.text.context - longest),
                    do_sample=False,
                    pad_token_id=pad,
                ),
                logits_processor=LogitsProcessorList([_ChooseTokens(rows)]),
                stopping_criteria=StoppingCriteriaList([_DeliverTokens(self, rows)]),
            )

    def _release(self, answer: GeneratedAnswer) -> None:
        """Do nothing: `generate` frees its batch."""

    def advance(self, row: "_Row", token: int) -> bool:
        """Deliver a row's next token. Returns whether its answer has ended."""
        answer = row.answer
        if not answer.ended:
            reason: FinishReason | None = "length" if answer.remaining == 1 else None
            if token in self.text.end_tokens and not answer.params.ignore_eos:
                reason = "stop"
            self._deliver(answer, (token,), reason, row.logprobs(token))
        return answer.ended


class _Row:
    """One answer, and how it chooses the next token."""

    def __init__(self, answer: GeneratedAnswer) -> None:
        self.answer = answer
        params = answer.params
        self.chooses = params.samples or params.repetition_penalty != 1 or params.logprobs
        self._penalties = _create_penalties(params)
        self._filters = _create_filters(params) if params.samples else LogitsProcessorList()
        self._generator = torch.Generator().manual_seed(params.seed) if params.samples else None
        self._scores: torch.Tensor | None = None

    def choose(self, scores: torch.Tensor) -> torch.Tensor:
        """Return scores of shape [vocabulary]; the highest one is the next token."""
        tokens = torch.tensor([self.answer.token_ids])
        scores = self._penalties(tokens, scores[None])[0]
        self._scores = scores.clone() if self.answer.params.logprobs else None
        if self._generator is None:
            return scores
        probabilities = self._filters(tokens, scores[None])[0].softmax(-1)
        chosen = torch.multinomial(probabilities, 1, generator=self._generator)
        return torch.full_like(scores, -torch.inf).scatter_(0, chosen, 0.0)

    def logprobs(self, token: int) -> Sequence[float]:
        return () if self._scores is None else (float(self._scores.log_softmax(-1)[token]),)


class _ChooseTokens(LogitsProcessor):  # type: ignore[misc]
    """Lets each row choose its own token."""

    def __init__(self, rows: Sequence[_Row]) -> None:
        self._rows = rows

    def __call__(self, _input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        choosing = [place for place, row in enumerate(self._rows) if row.chooses and not row.answer.ended]
        if choosing:
            scores = scores.float().clone()
            for place in choosing:
                scores[place] = self._rows[place].choose(scores[place])
        return scores


class _DeliverTokens(StoppingCriteria):  # type: ignore[misc]
    """Delivers each row's new token at every step, and reports which rows have ended."""

    def __init__(self, engine: TransformersEngine, rows: Sequence[_Row]) -> None:
        self._engine = engine
        self._rows = rows

    def __call__(self, input_ids: torch.Tensor, _scores: Any, **_: Any) -> torch.Tensor:
        tokens = zip(self._rows, input_ids[:, -1].tolist(), strict=True)
        ended = [self._engine.advance(row, token) for row, token in tokens]
        self._engine.between_steps()
        return torch.tensor(ended, device=input_ids.device)


def load(model: Snapshot, device: str) -> Any:
    """Load the model without its generation settings: in fp32 on a CPU, in the saved dtype on a GPU."""
    loaded = load_model(model.path, model.source, torch.float32 if device == "cpu" else "auto")
    loaded.generation_config = GenerationConfig()
    return loaded.eval().to(device)


def create_text_config(model: Snapshot) -> TextConfig:
    """Return the snapshot's text config, with the tokenizer as transformers loads it."""
    tokenizer = load_tokenizer(model.path, model.source, model.vocabulary).backend_tokenizer
    return TextConfig.of(model, tokenizer.to_str())


def _create_penalties(params: GenerationParams) -> LogitsProcessorList:
    if params.repetition_penalty == 1:
        return LogitsProcessorList()
    return LogitsProcessorList([RepetitionPenaltyLogitsProcessor(params.repetition_penalty)])


def _create_filters(params: GenerationParams) -> LogitsProcessorList:
    return LogitsProcessorList(
        [
            TemperatureLogitsWarper(float(params.temperature)),
            *([TopKLogitsWarper(params.top_k)] if params.top_k else []),
            *([TopPLogitsWarper(params.top_p)] if params.top_p < 1 else []),
            *([MinPLogitsWarper(params.min_p)] if params.min_p else []),
        ]
    )
