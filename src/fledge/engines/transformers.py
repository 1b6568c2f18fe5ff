"""The transformers engine: any architecture of the library, padded batches of what waits.

`generate` computes the logits of a whole batch; what each row does with its own (penalty, sampling by its own seed, its
end) is decided row by row, so that requests of any settings share a batch.
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

from fledge.core.types import EngineInfo
from fledge.engines.engine import FinishReason, GenerationParams
from fledge.engines.text import TextConfig
from fledge.engines.transformers_load import load_model, load_tokenizer
from fledge.engines.worker import GeneratedAnswer, WorkerEngine
from fledge.models.snapshot import Snapshot

BATCH = 64


class TransformersEngine(WorkerEngine):
    """Generates batch after batch; what arrives meanwhile is the next batch.

    A batch ends where its longest row fills the model's window, as the positions of rows that have ended go on, too;
    the others are in the next one.
    """

    def __init__(self, model: Snapshot, info: EngineInfo) -> None:
        super().__init__(info, text_of(model))
        self._model = load(model, "cpu")

    def _turn(self) -> None:
        self._take(BATCH)
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
                    max_new_tokens=min(max(answer.room for answer in batch), self.text.context - longest),
                    do_sample=False,
                    pad_token_id=pad,
                ),
                logits_processor=LogitsProcessorList([_Choosing(rows)]),
                stopping_criteria=StoppingCriteriaList([_Delivering(self, rows)]),
            )

    def _release(self, answer: GeneratedAnswer) -> None:
        """Nothing: a batch ends with `generate`."""

    def advance(self, row: "_Row", token: int) -> bool:
        """Pass a row's next token on; True if its answer has ended."""
        answer = row.answer
        if not answer.ended:
            reason: FinishReason | None = "length" if answer.room == 1 else None
            if token in self.text.end_tokens and not answer.params.ignore_eos:
                reason = "stop"
            self._deliver(answer, (token,), reason, row.logprobs(token))
        return answer.ended


class _Row:
    """One answer in its batches, and how it chooses the next token."""

    def __init__(self, answer: GeneratedAnswer) -> None:
        self.answer = answer
        params = answer.params
        self.chooses = params.samples or params.repetition_penalty != 1 or params.logprobs
        self._penalties = _penalties(params)
        self._filters = _filters(params) if params.samples else LogitsProcessorList()
        self._generator = torch.Generator().manual_seed(params.seed) if params.samples else None
        self._scores: torch.Tensor | None = None

    def choose(self, scores: torch.Tensor) -> torch.Tensor:
        """Scores `[vocabulary]` in which the highest is the token to take."""
        tokens = torch.tensor([self.answer.token_ids])
        scores = self._penalties(tokens, scores[None])[0]
        self._scores = scores.clone() if self.answer.params.logprobs else None
        if self._generator is None:
            return scores
        likely = self._filters(tokens, scores[None])[0].softmax(-1)
        chosen = torch.multinomial(likely, 1, generator=self._generator)
        return torch.full_like(scores, -torch.inf).scatter_(0, chosen, 0.0)

    def logprobs(self, token: int) -> Sequence[float]:
        return () if self._scores is None else (float(self._scores.log_softmax(-1)[token]),)


class _Choosing(LogitsProcessor):  # type: ignore[misc]
    """Lets each row choose for itself."""

    def __init__(self, rows: Sequence[_Row]) -> None:
        self._rows = rows

    def __call__(self, _input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        choosing = [place for place, row in enumerate(self._rows) if row.chooses and not row.answer.ended]
        if choosing:
            scores = scores.float().clone()
            for place in choosing:
                scores[place] = self._rows[place].choose(scores[place])
        return scores


class _Delivering(StoppingCriteria):  # type: ignore[misc]
    """Hands each row's new token out as it comes, and says which rows are done."""

    def __init__(self, engine: TransformersEngine, rows: Sequence[_Row]) -> None:
        self._engine = engine
        self._rows = rows

    def __call__(self, input_ids: torch.Tensor, _scores: Any, **_: Any) -> torch.Tensor:
        tokens = zip(self._rows, input_ids[:, -1].tolist(), strict=True)
        ended = [self._engine.advance(row, token) for row, token in tokens]
        self._engine.between_steps()
        return torch.tensor(ended, device=input_ids.device)


def load(model: Snapshot, device: str) -> Any:
    """The model, in fp32 on a CPU and as it was saved on a GPU; without the generation settings it came with."""
    loaded = load_model(model.path, model.source, torch.float32 if device == "cpu" else "auto")
    loaded.generation_config = GenerationConfig()
    return loaded.eval().to(device)


def text_of(model: Snapshot) -> TextConfig:
    """The tokenizer as transformers makes it from the snapshot's files."""
    tokenizer = load_tokenizer(model.path, model.source, model.vocabulary).backend_tokenizer
    return TextConfig.of(model, tokenizer.to_str())


def _penalties(params: GenerationParams) -> LogitsProcessorList:
    if params.repetition_penalty == 1:
        return LogitsProcessorList()
    return LogitsProcessorList([RepetitionPenaltyLogitsProcessor(params.repetition_penalty)])


def _filters(params: GenerationParams) -> LogitsProcessorList:
    return LogitsProcessorList(
        [
            TemperatureLogitsWarper(float(params.temperature)),
            *([TopKLogitsWarper(params.top_k)] if params.top_k else []),
            *([TopPLogitsWarper(params.top_p)] if params.top_p < 1 else []),
            *([MinPLogitsWarper(params.min_p)] if params.min_p else []),
        ]
    )
