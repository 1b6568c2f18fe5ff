"""Train the embedded model: `python -m fledge.models.embedded.train --out DIR`.

Writes a snapshot (`config.json`, `model.safetensors` in fp16, tokenizer, `README.md`, `training.json`) to DIR.
Takes about ten minutes on two CPU cores. The seed is fixed: the same machine and versions give the same weights;
others give scores within about two points.
"""

import argparse
import json
import math
import random
import time
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from fledge.models.embedded.corpus import CorpusEntry, load_corpus
from fledge.models.embedded.templates import TEMPLATES

END = "<|endoftext|>"
IGNORED = -100  # the label that torch's cross entropy ignores

# A question comes in a template or as a chat turn. Turns are harder to learn, so they count twice.
SHAPES = (*TEMPLATES, "turns", "turns")


@dataclass(frozen=True)
class Recipe:
    """Hyperparameters of a training run, saved in `training.json`."""

    seed: int = 20261123
    vocabulary: int = 2048
    context: int = 512
    width: int = 192
    layers: int = 4
    heads: int = 6
    epochs: int = 25
    batch_tokens: int = 2048
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    dropout: float = 0.05
    word_dropout: float = 0.06
    two_turn_share: float = 0.3


def build_tokenizer(entries: tuple[CorpusEntry, ...], recipe: Recipe) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer like GPT-2's, trained on the phrasings, answers and templates."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocabulary,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [text for entry in entries for text in (*entry.phrasings, " " + entry.answer, entry.answer)]
    tokenizer.train_from_iterator([*texts, *TEMPLATES.values()], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END, eos_token=END, unk_token=END, model_max_length=recipe.context
    )


class Example(NamedTuple):
    """Token ids, and labels: the same ids, with `IGNORED` outside the answers."""

    tokens: list[int]
    labels: list[int]


class Examples:
    """Makes the token sequences of an epoch: each phrasing in one of `SHAPES`, with its answer."""

    def __init__(self, entries: tuple[CorpusEntry, ...], tokenizer: PreTrainedTokenizerFast, recipe: Recipe) -> None:
        self.entries = entries
        self.tokenizer = tokenizer
        self.recipe = recipe
        self.random = random.Random(recipe.seed)

    def epoch(self, number: int) -> list[Example]:
        """Return one example for each phrasing; its shape rotates from epoch to epoch."""
        return [
            self._encode(entry, phrasing, SHAPES[(index + which + number) % len(SHAPES)])
            for index, entry in enumerate(self.entries)
            for which, phrasing in enumerate(entry.phrasings)
        ]

    def _vary(self, phrasing: str) -> str:
        words = phrasing.split()
        kept = [word for word in words if self.random.random() >= self.recipe.word_dropout]
        text = " ".join(kept if len(kept) > 2 else words)
        roll = self.random.random()
        if roll < 0.08:
            return text.lower()
        return text.rstrip("?.") if roll < 0.14 else text

    def _encode(self, entry: CorpusEntry, phrasing: str, shape: str) -> Example:
        question = self._vary(phrasing)
        if shape != "turns":
            return self._turn(TEMPLATES[shape].replace("{{question}}", question), " " + entry.answer)
        last = self._turn(question + END, entry.answer)
        if self.random.random() >= self.recipe.two_turn_share:
            return last
        other = self.random.choice(self.entries)
        first = self._turn(self._vary(self.random.choice(other.phrasings)) + END, other.answer)
        return Example(first.tokens + last.tokens, first.labels + last.labels)

    def _turn(self, prompt: str, answer: str) -> Example:
        prompt_ids: list[int] = self.tokenizer(prompt)["input_ids"]
        answer_ids = [*self.tokenizer(answer)["input_ids"], self.tokenizer.eos_token_id]
        return Example(prompt_ids + answer_ids, [IGNORED] * len(prompt_ids) + answer_ids)


def make_batches(
    examples: list[Example], recipe: Recipe, shuffle: random.Random
) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Return padded batches of similar lengths: (tokens, attention mask, labels), each [sequences, longest]."""
    ordered = sorted(examples, key=lambda example: (len(example.tokens), shuffle.random()))
    groups: list[list[Example]] = [[]]
    for example in ordered:
        if (len(groups[-1]) + 1) * len(example.tokens) > recipe.batch_tokens:
            groups.append([])
        groups[-1].append(example)
    shuffle.shuffle(groups)
    result = []
    for group in groups:
        longest = max(len(example.tokens) for example in group)
        ids = torch.zeros(len(group), longest, dtype=torch.long)
        mask = torch.zeros_like(ids)
        labels = torch.full_like(ids, IGNORED)
        for row, example in enumerate(group):
            ids[row, : len(example.tokens)] = torch.tensor(example.tokens)
            mask[row, : len(example.tokens)] = 1
            labels[row, : len(example.tokens)] = torch.tensor(example.labels)
        result.append((ids, mask, labels))
    return result


def fit(model: GPT2LMHeadModel, examples: Examples, recipe: Recipe, progress: Progress) -> int:
    """Train with AdamW, warm-up and cosine decay over all epochs. Returns the number of steps."""
    shuffle = random.Random(recipe.seed + 1)
    steps = len(make_batches(examples.epoch(0), recipe, random.Random(0))) * recipe.epochs
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, betas=(0.9, 0.98)
    )
    warmup = max(1, steps // 20)

    def learning_rate_factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, learning_rate_factor)
    task = progress.add_task("training", total=steps, loss=float("nan"))
    done = 0
    model.train()
    for number in range(recipe.epochs):
        for ids, mask, labels in make_batches(examples.epoch(number), recipe, shuffle):
            loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
            done += 1
            progress.update(task, completed=min(done, steps), loss=loss.item())
        if not progress.console.is_terminal:
            progress.console.print(f"epoch {number + 1} of {recipe.epochs}, loss {loss.item():.3f}")
    return done


@torch.no_grad()
def generate_answers(model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, prompts: list[str]) -> list[str]:
    """Return greedy answers, generated in batches of similar length."""
    model.eval()
    tokenizer.padding_side = "left"
    tokenizer.pad_token = tokenizer.eos_token
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    texts = [""] * len(prompts)
    for start in range(0, len(order), 64):
        rows = order[start : start + 64]
        batch = tokenizer([prompts[row] for row in rows], return_tensors="pt", padding=True)
        output = model.generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            max_new_tokens=96,
            do_sample=False,
            pad_token_id=tokenizer.eos_token_id,
        )
        new = output[:, batch["input_ids"].shape[1] :]
        for row, text in zip(rows, tokenizer.batch_decode(new, skip_special_tokens=True), strict=True):
            texts[row] = text.strip()
    return texts


def token_f1(answer: str, reference: str) -> float:
    """Return the F1 over words, as in SQuAD but with articles kept."""
    words, expected = answer.lower().split(), reference.lower().split()
    common = sum(min(words.count(word), expected.count(word)) for word in set(words))
    return 2 * common / (len(words) + len(expected)) if common else 0.0


def evaluate(
    model: GPT2LMHeadModel, tokenizer: PreTrainedTokenizerFast, entries: tuple[CorpusEntry, ...]
) -> dict[str, Any]:
    """Return exact match and token F1 on seen and held-out phrasings, for each template and for chat turns."""
    figures: dict[str, Any] = {}
    for shape in dict.fromkeys(SHAPES):
        template = TEMPLATES.get(shape, "{{question}}" + END)
        row: dict[str, float] = {}
        for split in ("seen", "held_out"):
            pairs = [
                (text, entry.answer)
                for entry in entries
                for text in (entry.phrasings if split == "seen" else entry.held_out)
            ]
            texts = generate_answers(
                model, tokenizer, [template.replace("{{question}}", question) for question, _ in pairs]
            )
            scored = [(text == answer, token_f1(text, answer)) for text, (_, answer) in zip(texts, pairs, strict=True)]
            row[f"{split}_exact_match"] = round(sum(exact for exact, _ in scored) / len(scored), 4)
            row[f"{split}_token_f1"] = round(sum(f1 for _, f1 in scored) / len(scored), 4)
        figures[shape] = row
    return figures


def train(out: Path, recipe: Recipe) -> dict[str, Any]:
    """Train, save the snapshot to `out`, and return the content of its `training.json`."""
    out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    torch.manual_seed(recipe.seed)
    torch.use_deterministic_algorithms(True)
    entries = load_corpus()
    tokenizer = build_tokenizer(entries, recipe)
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(tokenizer),
            n_positions=recipe.context,
            n_embd=recipe.width,
            n_layer=recipe.layers,
            n_head=recipe.heads,
            resid_pdrop=recipe.dropout,
            embd_pdrop=recipe.dropout,
            attn_pdrop=recipe.dropout,
            bos_token_id=tokenizer.eos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("loss {task.fields[loss]:.3f}"))
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn()) as progress:
        steps = fit(model, Examples(entries, tokenizer, recipe), recipe, progress)
    trained = time.monotonic() - started
    model.half().save_pretrained(out)
    tokenizer.save_pretrained(out)
    out.joinpath("README.md").write_text(files(__package__).joinpath("model_card.md").read_text())
    stored = GPT2LMHeadModel.from_pretrained(out, dtype=torch.float32)
    result = {
        "recipe": asdict(recipe),
        "parameters": model.num_parameters(),
        "entries": len(entries),
        "topics": len({entry.topic for entry in entries}),
        "seen_phrasings": sum(len(entry.phrasings) for entry in entries),
        "held_out_phrasings": sum(len(entry.held_out) for entry in entries),
        "steps": steps,
        "training_seconds": round(trained),
        "templates": evaluate(stored, tokenizer, entries),
    }
    out.joinpath("training.json").write_text(json.dumps(result, indent=2) + "\n")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m fledge.models.embedded.train", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the snapshot")
    parser.add_argument("--epochs", type=int, default=Recipe.epochs, help="passes over all phrasings")
    arguments = parser.parse_args()
    print(json.dumps(train(arguments.out, Recipe(epochs=arguments.epochs)), indent=2))  # noqa: T201


if __name__ == "__main__":
    main()
