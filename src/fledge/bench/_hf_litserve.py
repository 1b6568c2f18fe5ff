"""A peer of `bench serve`: LitServe with static batches: `python _hf_litserve.py JSON`.

It runs in an environment without fledge.
"""

import json
import sys
from typing import Any

import litserve  # type: ignore[import-not-found]  # (only in the environment that it runs in)
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

MAX_BATCH = 16
WAIT_S = 0.02


class GenerateAPI(litserve.LitAPI):  # type: ignore[misc]
    """Answers a batch of prompts with one `generate` of exactly `tokens` new tokens."""

    def __init__(self, folder: str, tokens: int, *, chat: bool) -> None:
        super().__init__(max_batch_size=MAX_BATCH, batch_timeout=WAIT_S)
        self.folder, self.tokens, self.chat = folder, tokens, chat

    def setup(self, device: str) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(self.folder, local_files_only=True, padding_side="left")
        self.tokenizer.pad_token = self.tokenizer.pad_token or self.tokenizer.convert_ids_to_tokens(0)
        model = AutoModelForCausalLM.from_pretrained(self.folder, local_files_only=True, use_safetensors=True)
        self.model = model.eval().to(device)

    def decode_request(self, request: dict[str, str]) -> str:
        return request["prompt"]

    def batch(self, inputs: list[str]) -> list[str]:
        return inputs

    @torch.inference_mode()
    def predict(self, prompts: list[str]) -> list[dict[str, Any]]:
        if self.chat:
            prompts = [self._apply_template(prompt) for prompt in prompts]
        batch = self.tokenizer(prompts, return_tensors="pt", padding=True).to(self.model.device)
        output = self.model.generate(
            **batch, max_new_tokens=self.tokens, min_new_tokens=self.tokens, do_sample=False, pad_token_id=0
        )
        new = output[:, batch["input_ids"].shape[1] :]
        texts = self.tokenizer.batch_decode(new, skip_special_tokens=True)
        return [{"text": text, "tokens": new.shape[1]} for text in texts]

    def _apply_template(self, prompt: str) -> str:
        turns = [{"role": "user", "content": prompt}]
        return str(self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))

    def unbatch(self, output: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return output


def main(config: dict[str, Any]) -> None:
    server = litserve.LitServer(
        GenerateAPI(config["folder"], config["tokens"], chat=config["chat"]), accelerator=config["device"]
    )
    server.run(host="127.0.0.1", port=config["port"], generate_client_file=False, log_level="warning")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
