"""An instruct model: the embedded one with a chat template that writes the form which it was trained on.

Asked through its template it answers; asked a bare question as a completion it does not.
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
    """Save it, with more settings in its generation config; returns `folder`."""
    embedded = snapshot.resolve("embedded")
    folder.mkdir(parents=True, exist_ok=True)
    for name in embedded.files:
        (folder / name).write_bytes((embedded.path / name).read_bytes())
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    config = folder / "generation_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **generation}), encoding="utf-8")
    return folder
