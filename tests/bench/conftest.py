import shutil
from pathlib import Path

import pytest

from fledge.models import snapshot


@pytest.fixture
def chat_model(tmp_path: Path) -> Path:
    """Return the folder of the embedded model with a chat template."""
    folder = tmp_path / "small-chat"
    shutil.copytree(snapshot.resolve("embedded").path, folder)
    template = "{% for turn in messages %}Human: {{ turn.content }}\nAssistant:{% endfor %}"
    (folder / "chat_template.jinja").write_text(template)
    return folder
