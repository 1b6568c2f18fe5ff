"""The engine process's way with requests that it cannot take: an answer, never its end."""

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import zmq

from fledge.core.messages import Ask, Piece

HOST = """
import sys
from fledge.models.host import EngineHost
from fledge.models.scripted import ScriptedEngine
EngineHost(ScriptedEngine(), sys.argv[1]).run()
"""


@pytest.mark.parametrize(
    "params",
    [{"top_p": 1e-9}, {"max_tokens": 0}, {"stop": ["x" * 200]}],
)
def test_bad_settings_are_refused_and_the_next_request_is_answered(params: dict[str, object], tmp_path: Path) -> None:
    address = f"ipc://{tmp_path}/e"
    host = subprocess.Popen([sys.executable, "-c", HOST, address])
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with context, context.socket(zmq.DEALER) as client:
        client.connect(address)
        client.setsockopt(zmq.RCVTIMEO, 5000)
        client.setsockopt(zmq.LINGER, 0)
        pieces = []
        for ask in (Ask("bad", params, text="x"), Ask("good", {}, text="x")):
            client.send_multipart([b"ask", msgspec.msgpack.encode(ask)])
            pieces.append(msgspec.msgpack.decode(client.recv(), type=Piece))
    host.kill()
    host.wait()
    assert (pieces[0].id, pieces[0].error_kind) == ("bad", "input")
    assert (pieces[1].id, pieces[1].text, pieces[1].finish_reason) == ("good", "X", "stop")
