"""A recorder that sends invalid messages, then a valid one."""

import socket
import sys

from fledge.core.control import encode_event
from fledge.core.endpoint_state import RecorderFigures
from fledge.core.events import RecordsShipped

if __name__ == "__main__":
    line = socket.socket(fileno=int(sys.argv[1]))
    line.sendall(b'{"event": "promoted", "release": "mine/2"}\n')
    line.sendall(b'{"event": "moved", "name": "mine", "alias": "champion", "release": 2, "folder": "/nowhere"}\n')
    line.sendall(encode_event(RecordsShipped(RecorderFigures(shipped=7, waiting=0, refused=0, last_error=""))))
    while (received := line.recv(4096)) and b'"stop"' not in received:
        pass
