"""The transformers engine: any architecture, padded batches of what waits."""

import threading
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from fledge.core import state
from fledge.core.errors import FledgeError
from fledge.models.engine import Chunk, GenerationParams, Prompt, Stream
from fledge.models.snapshot import Snapshot
from fledge.models.text import Decoder, Text

BATCH = 16


class TransformersEngine:
    """One thread generates batch after batch; an answer arrives whole."""

    name = "transformers"

    def __init__(self, snapshot: Snapshot, cache: Path) -> None:
        folder = snapshot.path
        if "tokenizer.json" not in snapshot.files:  # an older folder with vocab.json and merges.txt only
            folder = state.ensure(cache) / f"{snapshot.digest[:16]}-tokenizer"
            AutoTokenizer.from_pretrained(snapshot.path, local_files_only=True).save_pretrained(folder)
        self._text = Text(folder, end_token=snapshot.end_token, context=snapshot.context)
        self._model = AutoModelForCausalLM.from_pretrained(
            snapshot.path, dtype=torch.float32, local_files_only=True, use_safetensors=True
        ).eval()
        self._work = threading.Condition()
        self._waiting: list[tuple[list[int], GenerationParams, Stream]] = []
        self._closed = False
        self._thread = threading.Thread(target=self._loop, name="transformers-engine", daemon=True)
        self._thread.start()

    def submit(self, prompt: Prompt, params: GenerationParams) -> Stream:
        token_ids = self._text.encode(prompt, room=params.max_tokens)
        stream = Stream(prompt_tokens=len(token_ids))
        with self._work:
            if self._closed:
                raise FledgeError("the engine is closed")
            self._waiting.append((token_ids, params, stream))
            self._work.notify()
        return stream

    def close(self) -> None:
        with self._work:
            self._closed = True
            self._work.notify()
        self._thread.join()

    def _loop(self) -> None:
        while True:
            with self._work:
                while not (self._waiting or self._closed):
                    self._work.wait()
                if self._closed:
                    for _, _, stream in self._waiting:
                        stream.fail(FledgeError("the engine was closed"))
                    return
                for item in [item for item in self._waiting if item[2].cancelled]:
                    item[2].put(Chunk("", (), "cancelled"))
                self._waiting = [item for item in self._waiting if not item[2].cancelled]
                if not self._waiting:
                    continue
                params = self._waiting[0][1]
                batch = [item for item in self._waiting if item[1] == params][:BATCH]
                self._waiting = [item for item in self._waiting if not any(item is taken for taken in batch)]
            try:
                self._answer([(ids, stream) for ids, _, stream in batch], params)
            except Exception as error:  # noqa: BLE001 (whatever it was, those who wait must hear of it)
                for _, _, stream in batch:
                    stream.fail(FledgeError(f"the transformers engine failed: {error}"))

    @torch.no_grad()
    def _answer(self, batch: list[tuple[list[int], Stream]], params: GenerationParams) -> None:
        end = self._text.end_token
        longest = max(len(ids) for ids, _ in batch)
        tokens = torch.full((len(batch), longest), end)
        mask = torch.zeros_like(tokens)
        for row, (ids, _) in enumerate(batch):
            tokens[row, longest - len(ids) :] = torch.tensor(ids)
            mask[row, longest - len(ids) :] = 1
        sampling = {"do_sample": False} if params.temperature == 0 else _sampling(params)
        output = self._model.generate(
            input_ids=tokens,
            attention_mask=mask,
            max_new_tokens=params.max_tokens,
            repetition_penalty=params.repetition_penalty,
            pad_token_id=end,
            eos_token_id=end,
            **sampling,
        )
        for row, (_, stream) in enumerate(batch):
            new = output[row, longest:].tolist()
            ended = end in new
            kept = new[: new.index(end) + 1] if ended else new
            stream.put(Decoder(self._text, params.stop).feed(kept, "stop" if ended else "length"))


def _sampling(params: GenerationParams) -> dict[str, object]:
    torch.manual_seed(params.seed)
    return {"do_sample": True, "temperature": params.temperature, "top_p": params.top_p, "top_k": params.top_k}
