"""A trial run of a tokenizer: does the library load it, and can it encode and decode a text?

It runs in a process of its own with limits, because the library may panic, or exhaust memory, on a file whose meaning
only it knows.
"""

import json
import resource
import subprocess
import sys
from pathlib import Path

from fledge.core.errors import InputError
from fledge.core.processes import module_command
from fledge.models.config_files import FETCH_AGAIN

TIME_LIMIT_S = 20  # of processor time; a vocabulary of 262,000 tokens takes 2
MEMORY_LIMIT_BYTES = 4 << 30
MOST_TOKENS = 64  # for each character
TEXT = "The year 2026, it's said: (a+b)*c = {d}!\n\n\tGrüße, 日本語, привет, 🙂 1234567890"


def check_loads(path: Path, where: str) -> None:
    """Raise `InputError` if this `tokenizer.json` cannot be used."""
    done = subprocess.run(
        [*module_command(__name__), str(path)], capture_output=True, text=True, encoding="utf-8", check=False
    )
    try:
        problem = str(json.loads(done.stdout)["problem"])
    except (ValueError, LookupError):
        problem = f"its trial run crashed, or exceeded {TIME_LIMIT_S} s of CPU time or 4 GiB of memory"
    if problem:
        raise InputError(f"{where} cannot be loaded: {problem}", hint=FETCH_AGAIN)


def _problem(path: str) -> str:
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(path)
        tokenizer.no_padding()
        tokenizer.no_truncation()
        ids = tokenizer.encode(TEXT).ids
        tokenizer.decode(ids)
    except BaseException as error:  # noqa: BLE001 (a panic is no Exception)
        return str(error)[:300]
    if not 0 < len(ids) <= MOST_TOKENS * len(TEXT):
        return f"it turns a text of {len(TEXT)} characters into {len(ids)} tokens"
    return ""


def main() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (TIME_LIMIT_S, TIME_LIMIT_S))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.stdout.write(json.dumps({"problem": _problem(sys.argv[1])}))


if __name__ == "__main__":
    main()
