"""Cross-check with GuideLLM, in its own environment, on a running endpoint."""

import itertools
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from fledge.bench.environments import environment
from fledge.bench.load_client import PROTOCOLS, LoadTarget
from fledge.bench.loads import prompts
from fledge.bench.servers import clean_environment
from fledge.core.errors import FledgeError
from fledge.core.types import Say

PACKAGE = "guidellm==0.8.1"
CLIENTS = 16
TIMEOUT_S = 900.0


def install(state_dir: Path, say: Say) -> Path:
    """Install GuideLLM if needed and return its program. Raises `FledgeError` if that fails."""
    return environment("guidellm", (PACKAGE,), 2, state_dir, say) / "guidellm"


def requests_per_s(target: LoadTarget, model: Path, characters: int, count: int, state_dir: Path, say: Say) -> float:
    """Return GuideLLM's requests/s for `count` requests in a closed loop of `CLIENTS`.

    Raises `FledgeError` if it fails, or if an answer has another number of tokens.
    """
    program = install(state_dir, say)
    say("measuring the same endpoint with GuideLLM: about a minute")
    with tempfile.TemporaryDirectory(prefix="fledge-guidellm-") as temporary:
        folder = Path(temporary)
        rows = itertools.islice(prompts(characters, seed=2), count)
        lines = [json.dumps({"prompt": text, "output_tokens_count": target.tokens}) for text in rows]
        (folder / "prompts.jsonl").write_text("\n".join(lines), encoding="utf-8")
        command = [str(program), "run", "--disable-console", *_options(target, model, folder, count)]
        try:
            done = subprocess.run(
                command,
                cwd=folder,
                env=clean_environment({}),
                capture_output=True,
                text=True,
                check=False,
                timeout=TIMEOUT_S,
            )
        except subprocess.TimeoutExpired:
            raise FledgeError(f"it took longer than {TIMEOUT_S:g} s") from None
        if done.returncode or not (folder / "report.json").is_file():
            raise FledgeError((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])
        return _read_rate(json.loads((folder / "report.json").read_text(encoding="utf-8")), target.tokens, count)


def _options(target: LoadTarget, model: Path, folder: Path, count: int) -> list[str]:
    path = PROTOCOLS[target.protocol].path
    options = {
        "backend": f"kind=openai_http,target={target.url},model={target.model},request_format={path}",
        "profile": f"kind=concurrent,streams={CLIENTS}",
        "constraint": f"kind=max_requests,count={count}",
        "tokenizer": f"kind=huggingface_auto,model={model}",
        "data": f"kind=json_file,path={folder / 'prompts.jsonl'}",
        "output": f"kind=json,path={folder / 'report.json'}",
    }
    return [word for name, value in options.items() for word in (f"--{name}", value)]


def _read_rate(report: dict[str, Any], tokens: int, count: int) -> float:
    (benchmark,) = report["benchmarks"]
    metrics = benchmark["metrics"]
    lengths = metrics["output_token_count"]["successful"]
    if metrics["request_totals"]["successful"] != count or (lengths["min"], lengths["max"]) != (tokens, tokens):
        raise FledgeError(f"not all of its {count} requests got {tokens} tokens")
    return float(count / benchmark["duration"])
