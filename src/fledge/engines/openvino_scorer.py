"""Log probabilities of given tokens, from a second copy of the exported model.

The pipeline that generates reports none for tokens in its prefix cache, and of generated tokens only the chosen one.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import openvino

CHUNK = 256  # tokens of one step, which bounds the size of its logits


class ScoredToken(NamedTuple):
    """A token's log probability after the tokens before it, and the likeliest tokens there with theirs."""

    logprob: float
    top: list[tuple[int, float]]


class TokenScorer:
    """Computes the log probabilities of one sequence of tokens at a time."""

    def __init__(self, folder: Path, device: str, properties: dict[str, Any]) -> None:
        model = openvino.Core().compile_model(str(folder / "openvino_model.xml"), device, properties)
        self._inputs = {item.get_any_name() for item in model.inputs}
        self._request = model.create_infer_request()

    def score(self, token_ids: Sequence[int], top: int = 1) -> list[ScoredToken]:
        """Return the scores of all tokens but the first, each with the `top` likeliest tokens."""
        self._request.reset_state()
        scores: list[ScoredToken] = []
        for start in range(0, len(token_ids) - 1, CHUNK):
            end = min(start + CHUNK, len(token_ids) - 1)
            logits = self._infer(token_ids[start:end], start, end)
            scores += _score(logits, token_ids[start + 1 : end + 1], top)
        return scores

    def _infer(self, token_ids: Sequence[int], start: int, end: int) -> npt.NDArray[np.float32]:
        values = {
            "input_ids": np.array([token_ids], dtype=np.int64),
            "attention_mask": np.ones((1, end), dtype=np.int64),
            "position_ids": np.arange(start, end, dtype=np.int64)[None],
            "beam_idx": np.zeros(1, dtype=np.int32),
        }
        found = self._request.infer({name: value for name, value in values.items() if name in self._inputs})
        logits: npt.NDArray[np.float32] = found["logits"][0]
        return logits


def _score(logits: npt.NDArray[np.float32], following: Sequence[int], top: int) -> list[ScoredToken]:
    highest = logits.max(axis=-1, keepdims=True)
    total = np.log(np.exp(logits - highest).sum(axis=-1, dtype=np.float64)) + highest[:, 0]
    chosen = logits[np.arange(len(following)), list(following)] - total
    likeliest = np.argpartition(-logits, range(top), axis=-1)[:, :top]
    values = np.take_along_axis(logits, likeliest, axis=-1) - total[:, None]
    rows = zip(chosen, likeliest, values, strict=True)
    return [ScoredToken(float(value), list(zip(ids.tolist(), own.tolist(), strict=True))) for value, ids, own in rows]
