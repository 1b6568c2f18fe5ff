"""A model's tokenizer and template get a trial run, once, in a process with limits, before an engine starts."""

import shutil
import time
from pathlib import Path

import pytest

from fledge.core.errors import InputError
from fledge.models import snapshot


def with_template(folder: Path, template: str) -> str:
    shutil.copytree(snapshot.resolve("embedded").path, folder)
    (folder / "chat_template.jinja").write_text(template)
    return str(folder)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ messages[99].content }}", "list object has no element 99"),
        ("{% for m in messages %}{% for n in m.content.nothing.at_all %}{% endfor %}{% endfor %}", "no attribute"),
        ("{{ raise_exception('only for tools') }}", "only for tools"),
        ("{{ 'x' * 10**10 }}", "too much memory"),
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "CPU time"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
    ],
)
def test_a_template_that_cannot_render_a_question_is_refused(tmp_path: Path, template: str, reason: str) -> None:
    model, before = with_template(tmp_path / "model", template), time.process_time()
    with pytest.raises(InputError, match=reason) as caught:
        snapshot.resolve(model)
    assert model in caught.value.message
    assert caught.value.hint
    assert time.process_time() - before < 5


def test_a_changed_template_is_checked_again(tmp_path: Path) -> None:
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    model = with_template(tmp_path / "model", template)
    assert snapshot.resolve(model).has_chat_template
    (tmp_path / "model" / "chat_template.jinja").write_text(template.replace("m.content", "m.content.missing.x"))
    with pytest.raises(InputError, match="cannot be rendered"):
        snapshot.resolve(model)
