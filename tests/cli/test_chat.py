"""`fledge chat`, piped and in a terminal."""

import contextlib
import fcntl
import json
import os
import re
import select
import shlex
import signal
import stat
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from fledge.core.settings import Workspace
from tests.chat.scripted_server import Reply, Script, piece, stream_reply
from tests.chat.scripted_server import serve as serve_script
from tests.conftest import PATIENCE_S, Run
from tests.engines import openai_server

MODELS = Reply(200, {"data": [{"id": "first"}]})
SCRIPTED = ("chat", "embedded", "--engine", "scripted")


class Terminal:
    """A command on its own pseudo-terminal."""

    def __init__(self, *arguments: str, stdout: Any = None) -> None:
        self._terminal, child_end = os.openpty()
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "INPUTRC"))}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fledge", *arguments],
            stdin=child_end,
            stdout=stdout or child_end,
            stderr=child_end,
            env={**clean, "TERM": "xterm", "COLUMNS": "200", "LINES": "50"},
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 (so that Ctrl-C is a signal)
        )
        os.close(child_end)
        self._raw = b""
        self._seen = 0

    def until(self, text: str, seconds: float = PATIENCE_S) -> str:
        """Return the output since the last call up to `text`, without escape sequences."""
        deadline = time.monotonic() + seconds
        while text not in self.rest:
            assert time.monotonic() < deadline, f"{text!r} is not in {self.rest!r}"
            if select.select([self._terminal], [], [], 0.1)[0]:
                self._read()
        shown = self.rest[: self.rest.index(text) + len(text)]
        self._seen += len(shown)
        return shown

    def type(self, keys: str) -> None:
        os.write(self._terminal, keys.encode())

    def ctrl_c(self, text: str) -> str:
        """Press Ctrl-C and read up to `text`. Between two waits for a key readline ignores Ctrl-C: wait a moment, and
        press again if nothing happens."""
        time.sleep(0.3)
        for _ in range(5):
            self.type("\x03")
            with contextlib.suppress(AssertionError):
                return self.until(text, 20)
        return self.until(text, 0)

    def wait(self) -> int:
        """Return the exit code; `rest` has the output since the last call of `until`."""
        while self._read():
            pass
        return self.process.wait(PATIENCE_S)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._terminal)

    @property
    def rest(self) -> str:
        text = self._raw.decode(errors="ignore").replace("\r", "")
        return re.sub(r"\x1b\[[?0-9;]*([a-zA-Z]|$)", "", text)[self._seen :]

    def _read(self) -> bytes:
        try:
            part = os.read(self._terminal, 65536)
        except OSError:  # the command has ended
            return b""
        self._raw += part
        return part


@pytest.fixture
def terminal(workspace: Workspace) -> Iterator[Callable[..., Terminal]]:
    with ExitStack() as stack:

        def open_terminal(*arguments: str, **options: Any) -> Terminal:
            terminal = Terminal(*arguments, **options)
            stack.callback(terminal.close)
            return terminal

        yield open_terminal


def test_piped_stdout_has_only_answers(fledge: Run, workspace: Workspace) -> None:
    lines = 'first question\n\n/system Loud.\nsecond\\\nline\n"""\n/third\nblock\n"""\n/exit\nnever\n'
    done = fledge(*SCRIPTED, input=lines)
    assert (done.returncode, done.stdout, done.stderr) == (0, "FIRST QUESTION\nLINE\nBLOCK\n", "")
    assert not Path(".fledge/chat_history").exists()


@pytest.mark.slow
def test_embedded_model_answers(fledge: Run, workspace: Workspace) -> None:
    done = fledge("chat", "embedded", input="What is machine learning?\n/reset\nWhat is MLOps?\n")
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.startswith("Machine learning is ")
    assert "MLOps" in second


def test_json_is_one_document(fledge: Run, workspace: Workspace) -> None:
    done = fledge(*SCRIPTED, "--json", "--system", "Loud.", input="one\n/reset\n/nonsense\ntwo\n")
    assert done.returncode == 1
    document = json.loads(done.stdout)
    assert set(document) == {"target", "turns", "failed"}
    assert (document["target"], document["failed"]) == ("embedded", 1)
    assert [(turn["role"], turn["content"], turn["conversation"]) for turn in document["turns"]] == [
        ("system", "Loud.", 1),
        ("user", "one", 1),
        ("assistant", "ONE", 1),
        ("system", "Loud.", 2),
        ("user", "two", 2),
        ("assistant", "TWO", 2),
    ]
    assert "ONE" not in done.stderr


def test_failed_entries_print_one_line_and_the_session_continues(fledge: Run, workspace: Workspace) -> None:
    busy = Reply(429, {"error": {"message": "queue is full"}}, {"retry-after": "3"})
    answers = [busy, stream_reply(piece("So \x1b[2J"), done=False), stream_reply(piece("Fine.", "stop"))]
    with serve_script(Script({"/v1/models": MODELS}, answers)) as script:
        host = script.url.removeprefix("http://")
        done = fledge("chat", script.url, input="one\n/resett\ntwo\nthree\n/good\n/save no/where.md\n")
    assert done.returncode == 1
    assert done.stdout == "So \\x1b[2J\nFine.\n"
    assert done.stderr.splitlines() == [
        f"error: {host} is overloaded: queue is full (try: retry in 3 s)",
        "error: unknown command /resett; did you mean /reset? "
        "(try: /reset, or //resett to ask a question that starts so)",
        f"error: {host} sent an incomplete answer (try: retry; see the endpoint's log)",
        f"error: feedback needs a fledge endpoint: {host} is not one "
        "(try: fledge serve NAME@champion --detach, then fledge chat http://127.0.0.1:5001)",
        "error: no/where.md cannot be written: No such file or directory (try: choose another path)",
        "error: 5 entries failed",
        "try: see the messages above",
    ]
    sent = [body["messages"] for _, body, _ in script.requests if body is not None]
    assert [message["content"] for message in sent[2]] == ["three"]  # without the failed questions


def test_unreachable_endpoint_exits_1_with_a_hint(fledge: Run, workspace: Workspace, port: int) -> None:
    done = fledge("chat", f"http://127.0.0.1:{port}", input="anybody?\n")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"error: nothing answers at http://127.0.0.1:{port}" in done.stderr
    assert "try: fledge status" in done.stderr


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_invalid_bytes_fail_only_their_own_line(workspace: Workspace, locale: str) -> None:
    command = [sys.executable, "-m", "fledge", *SCRIPTED]
    given, clean = b"fine\nb\xffd\nna\xc3\xafve\n", {**os.environ, "LC_ALL": locale}
    done = subprocess.run(command, input=given, env=clean, capture_output=True, check=False, timeout=PATIENCE_S)
    assert (done.returncode, done.stdout.decode()) == (1, "FINE\nNAÏVE\n")
    assert done.stderr.startswith(b"error: the input is not valid text (try: check the encoding")
    assert b"Traceback" not in done.stderr


def test_closed_stdin_is_empty_input(workspace: Workspace) -> None:
    command = ["sh", "-c", f"{shlex.join([sys.executable, '-m', 'fledge', *SCRIPTED])} <&-"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_closed_stdout_is_not_an_error(workspace: Workspace) -> None:
    command = [sys.executable, "-m", "fledge", *SCRIPTED]
    running = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert running.stdout is not None
    running.stdout.close()
    _, said = running.communicate(b"a\nb\n", timeout=PATIENCE_S)
    assert (running.returncode, said) == (0, b"")


def test_session_in_a_terminal(terminal: Callable[..., Terminal]) -> None:
    shell = terminal(*SCRIPTED)
    assert "embedded on scripted (cpu); /help lists the commands, Ctrl-D exits" in shell.until("\n> ")
    shell.type("hello there\n")
    assert shell.until("\n> ").splitlines()[1:] == ["HELLO THERE", "> "]
    shell.type("one\\\n")
    shell.until("\n... ")
    shell.type("two\n")
    assert "TWO" in shell.until("\n> ")
    shell.type("\x1b[200~pasted\ntext\x1b[201~\n")  # bracketed paste
    assert shell.until("\n> ").splitlines()[-2:] == ["TEXT", "> "]
    shell.type("/system Loud.\n")
    assert "system text set" in shell.until("\n> ")
    shell.type("/help\n")
    assert "/save [--overwrite] FILE" in shell.until("\n> ")
    shell.type("/save talk.md\n")
    assert "saved 6 turns in talk.md" in shell.until("\n> ")
    shell.type("/good\n")
    assert "error: feedback needs a fledge endpoint" in shell.until("\n> ")
    shell.type("\x04")
    assert shell.wait() == 0
    history = Path(".fledge/chat_history")
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
    assert history.read_text().splitlines()[:3] == ["hello there", "one\\", "two"]

    again = terminal(*SCRIPTED)
    again.until("\n> ")
    again.type("\x1b[A\x1b[A\x1b[A\x1b[A\n")  # fourth last entry of the history
    assert "system text set" in again.until("\n> ")
    again.type("/exit\n")
    assert again.wait() == 0


def test_without_history_nothing_is_written(terminal: Callable[..., Terminal]) -> None:
    shell = terminal(*SCRIPTED, "--no-chat-history")
    shell.until("\n> ")
    shell.type("secret\n\x04")
    assert shell.wait() == 0
    assert not Path(".fledge/chat_history").exists()


def test_ctrl_c_stops_an_answer_and_twice_at_the_prompt_exits(terminal: Callable[..., Terminal]) -> None:
    server = openai_server.Server(words=("on ", *("and on ",) * 5000), pause_s=0.05)
    with openai_server.serve(server):
        shell = terminal("chat", server.url)
        shell.until("\n> ")
        shell.type("Go on.\n")
        shell.until("on and on and on ")
        shell.ctrl_c("(stopped)\n> ")
        server.words = ("Short.",)
        shell.type("And now?\n")
        assert "Short." in shell.until("\n> ")
        before = [turn["content"] for turn in server.bodies[1]["messages"]]
        assert [before[0], before[2]] == ["Go on.", "And now?"]
        assert before[1].startswith("on and on and on ")
        shell.type("half a questi")
        shell.until("half a questi")
        shell.ctrl_c("press Ctrl-C again or Ctrl-D to exit\n> ")
        shell.type("x\n")
        shell.until("\n> ")
        shell.ctrl_c("press Ctrl-C again or Ctrl-D to exit\n> ")  # a question in between resets the first press
        shell.ctrl_c("interrupted")
        assert shell.wait() == 130
        assert "Traceback" not in shell.rest


def test_sigterm_and_ctrl_c_of_a_pipeline_end_the_session(workspace: Workspace) -> None:
    server = openai_server.Server(words=("on ",) * 5000, pause_s=0.05)
    with openai_server.serve(server):
        for number in (signal.SIGTERM, signal.SIGINT):
            running = subprocess.Popen(
                [sys.executable, "-m", "fledge", "chat", server.url],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            assert running.stdin is not None
            assert running.stdout is not None
            running.stdin.write("Go on.\nAnd then?\n")
            running.stdin.flush()
            assert running.stdout.read(3) == "on "
            running.send_signal(number)
            _, said = running.communicate(timeout=PATIENCE_S)
            assert (running.returncode, said.strip()) == (130, "interrupted")
    assert len(server.bodies) == 2


def test_prompt_stays_on_the_terminal_when_stdout_is_a_file(terminal: Callable[..., Terminal]) -> None:
    with open("answers.txt", "w") as file:
        shell = terminal(*SCRIPTED, stdout=file)
    shell.until("> ")
    shell.type("hello\n")
    shell.until("> ")
    shell.type("\x04")
    assert shell.wait() == 0
    assert Path("answers.txt").read_text() == "HELLO\n"


def test_json_in_a_terminal_also_shows_answers(terminal: Callable[..., Terminal]) -> None:
    with open("document.json", "w") as file:
        shell = terminal(*SCRIPTED, "--json", stdout=file)
    shell.until("> ")
    shell.type("hello\n")
    assert "HELLO" in shell.until("> ")
    shell.type("\x04")
    assert shell.wait() == 0
    assert [turn["content"] for turn in json.loads(Path("document.json").read_text())["turns"]] == ["hello", "HELLO"]
