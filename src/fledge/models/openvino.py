"""The OpenVINO engine: continuous batching on a CPU, exact by default (fp32 weights and cache)."""

import os
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import openvino_genai

from fledge.core import state
from fledge.core.errors import FledgeError
from fledge.models.engine import FinishReason, GenerationParams, Prompt, Stream
from fledge.models.snapshot import Snapshot
from fledge.models.text import Decoder, Text

CACHE_GB = 1
EXACT = {"KV_CACHE_PRECISION": "f32", "INFERENCE_PRECISION_HINT": "f32"}


def exported(snapshot: Snapshot, cache: Path) -> Path:
    """The folder of the exported model under `cache`; exports it once for each digest, complete or not at all."""
    out = state.ensure(cache) / f"{snapshot.digest[:16]}-exact"
    if not out.is_dir():
        with tempfile.TemporaryDirectory(prefix=f"{out.name}.", dir=cache) as temporary:
            working = Path(temporary) / out.name
            _export(snapshot, working)
            try:
                os.rename(working, out)
            except OSError:
                if not out.is_dir():  # else another process was faster with the same content
                    raise
    return out


def _export(snapshot: Snapshot, out: Path) -> None:
    command = [sys.executable, "-m", "fledge.models._hf_export", str(snapshot.path), str(out)]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise FledgeError(f"OpenVINO cannot export {snapshot.source}: {last[0]}", hint="use --engine transformers")


@dataclass
class _Running:
    handle: Any
    stream: Stream
    decoder: Decoder
    ended: bool = False


@dataclass
class _Waiting:
    token_ids: list[int]
    params: GenerationParams
    stream: Stream
    decoder: Decoder = field(repr=False)


class OpenVINOEngine:
    """One thread steps all running answers together; `step` holds the GIL, so serve it from a process of its own."""

    name = "openvino"

    def __init__(self, snapshot: Snapshot, cache: Path) -> None:
        folder = exported(snapshot, cache)
        self._text = Text(folder, end_token=snapshot.end_token, context=snapshot.context)
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.cache_size = CACHE_GB
        scheduler.enable_prefix_caching = True
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(str(folder), scheduler, "CPU", EXACT)
        self._work = threading.Condition()
        self._waiting: list[_Waiting] = []
        self._closed = False
        self._count = 0
        self._thread = threading.Thread(target=self._loop, name="openvino-engine", daemon=True)
        self._thread.start()

    def submit(self, prompt: Prompt, params: GenerationParams) -> Stream:
        token_ids = self._text.encode(prompt, room=params.max_tokens)
        stream = Stream(prompt_tokens=len(token_ids))
        with self._work:
            if self._closed:
                raise FledgeError("the engine is closed")
            self._waiting.append(_Waiting(token_ids, params, stream, Decoder(self._text, params.stop)))
            self._work.notify()
        return stream

    def close(self) -> None:
        with self._work:
            self._closed = True
            self._work.notify()
        self._thread.join()

    def _loop(self) -> None:
        running: list[_Running] = []
        while True:
            with self._work:
                while not (self._waiting or running or self._closed):
                    self._work.wait()
                if self._closed:
                    for stream in [item.stream for item in running] + [item.stream for item in self._waiting]:
                        stream.fail(FledgeError("the engine was closed"))
                    return
                arrived, self._waiting = self._waiting, []
            try:
                running.extend(self._start(item) for item in arrived)
                self._pipeline.step()
                for item in running:
                    self._deliver(item)
            except Exception as error:  # noqa: BLE001 (whatever it was, those who wait must hear of it)
                for item in running:
                    item.handle.cancel()
                streams = [item.stream for item in running] + [item.stream for item in arrived]
                for stream in {id(stream): stream for stream in streams}.values():
                    stream.fail(FledgeError(f"the OpenVINO engine failed: {error}"))
                running = []
            running = [item for item in running if not item.ended]

    def _start(self, item: _Waiting) -> _Running:
        self._count += 1
        tokens = openvino.Tensor(np.array([item.token_ids], dtype=np.int64))
        handle = self._pipeline.add_request(self._count, tokens, self._config(item.params))
        return _Running(handle, item.stream, item.decoder)

    def _config(self, params: GenerationParams) -> Any:
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = params.max_tokens
        config.eos_token_id = self._text.end_token
        config.repetition_penalty = params.repetition_penalty
        config.do_sample = params.temperature > 0
        if config.do_sample:
            config.temperature = params.temperature
            config.top_p = params.top_p
            config.rng_seed = params.seed
            if params.top_k:
                config.top_k = params.top_k
        return config

    def _deliver(self, item: _Running) -> None:
        """Pass new tokens on; end the answer at a stop text or when it was cancelled."""
        while item.handle.can_read():
            for output in item.handle.read().values():
                chunk = item.decoder.feed(output.generated_ids, _reason(output))
                item.stream.put(chunk)
                item.ended = chunk.finish_reason is not None
        if item.stream.cancelled and not item.ended:
            item.stream.put(item.decoder.feed((), "cancelled"))
            item.ended = True
        if item.ended:
            item.handle.cancel()


def _reason(output: Any) -> FinishReason | None:
    reasons = openvino_genai.GenerationFinishReason
    return {reasons.STOP: "stop", reasons.LENGTH: "length"}.get(output.finish_reason)  # type: ignore[return-value]
