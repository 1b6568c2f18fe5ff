"""An instruct model: the embedded model with a chat template in the format of its training.

It answers questions asked through its template, but not bare questions asked as completions.
"""

import json
from pathlib import Path

from fledge.models import snapshot

TEMPLATE = (
    "{% for m in messages %}"
    "{% if m.role == 'user' %}Question: {{ m.content }}\nAnswer:"
    "{% elif m.role == 'system' %}{{ m.content }}\n"
    "{% else %} {{ m.content }}{{ eos_token }}{% endif %}"
    "{% endfor %}"
)
QUESTION = "What is machine learning?"
ANSWER = "Machine learning is the study of"  # the first eight tokens


def write_instruct_model(folder: Path, **generation: object) -> Path:
    """Save the model, with `generation` added to its generation config; returns `folder`."""
    embedded = snapshot.resolve("embedded")
    folder.mkdir(parents=True, exist_ok=True)
    for name in embedded.files:
        (folder / name).write_bytes((embedded.path / name).read_bytes())
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    config = folder / "generation_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **generation}), encoding="utf-8")
    return folder
