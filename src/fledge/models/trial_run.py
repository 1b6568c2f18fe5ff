"""Trial run of a model's tokenizer and chat template.

It runs in a process with limits: a hostile tokenizer or template can panic, loop forever or exhaust memory.
"""

import json
import resource
import subprocess
import sys
from pathlib import Path

from fledge.core.errors import InputError
from fledge.core.processes import module_command
from fledge.core.types import Message
from fledge.models.chat_template import ChatTemplate, TemplateSource
from fledge.models.config_files import FETCH_AGAIN

TOKENIZER_LIMIT_S = 20  # CPU time; a vocabulary of 262,000 tokens takes 2
TEMPLATE_LIMIT_S = 2
MEMORY_LIMIT_BYTES = 4 << 30
MAX_TOKENS_PER_CHARACTER = 64
TEXT = "The year 2026, it's said: (a+b)*c = {d}!\n\n\tGrüße, 日本語, привет, 🙂 1234567890"


def check_tokenizer(path: Path, where: str) -> None:
    """Raise `InputError` if this `tokenizer.json` cannot be used."""
    problem = _find_problem("tokenizer", str(path), TOKENIZER_LIMIT_S)
    if problem:
        raise InputError(f"{where} cannot be loaded: {problem}", hint=FETCH_AGAIN)


def check_rendering(template: TemplateSource, where: str) -> None:
    """Raise `InputError` if this chat template cannot render a single question."""
    problem = _find_problem("template", json.dumps(template), TEMPLATE_LIMIT_S)
    if problem:
        hint = "fix or replace its chat template, or name another model"
        raise InputError(f"{where}: the chat template cannot be rendered: {problem}", hint=hint)


def _find_problem(kind: str, content: str, limit_s: int) -> str:
    done = subprocess.run(
        [*module_command(__name__), kind, str(limit_s)],
        input=content,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    try:
        return str(json.loads(done.stdout)["problem"])
    except (ValueError, LookupError):
        return f"its trial run crashed, or exceeded {limit_s} s of CPU time or 4 GiB of memory"


def _try_tokenizer(path: str) -> str:
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(path)
        tokenizer.no_padding()
        tokenizer.no_truncation()
        ids = tokenizer.encode(TEXT).ids
        tokenizer.decode(ids)
    except BaseException as error:  # noqa: BLE001 (a panic is not an Exception)
        return str(error)[:300]
    if not 0 < len(ids) <= MAX_TOKENS_PER_CHARACTER * len(TEXT):
        return f"it turns a text of {len(TEXT)} characters into {len(ids)} tokens"
    return ""


def _try_template(content: str) -> str:
    try:
        ChatTemplate(*json.loads(content)).render([Message("user", TEXT)])
    except InputError as error:
        return error.message.rpartition("refuses the conversation: ")[2]
    return ""


def main() -> None:
    kind, limit_s = sys.argv[1], int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_CPU, (limit_s, limit_s))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    run = _try_tokenizer if kind == "tokenizer" else _try_template
    sys.stdout.write(json.dumps({"problem": run(sys.stdin.read())}))


if __name__ == "__main__":
    main()
