"""A systemd unit and a Dockerfile for an endpoint. Pure."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

STOP_MARGIN_S = 30


def words(targets: Sequence[str], flags: Mapping[str, Any]) -> list[str]:
    """Return the arguments of `fledge serve` for these targets and flags."""
    found = list(targets)
    for name, value in flags.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            found.append(f"--{flag}" if value else f"--no-{flag}")
        elif value is not None:
            found += [f"--{flag}", str(value)]
    return found


def systemd_unit(python: str, folder: str, arguments: Sequence[str], drain_s: float) -> str:
    """Return a unit that serves from `folder`; keys are read from `fledge.env` in it."""
    command = " ".join(map(_quote_unit_word, [python, "-m", "fledge", "serve", *arguments]))
    folder = folder.replace("%", "%%")
    return f"""[Unit]
Description=fledge serve {arguments[0].replace("%", "%%")}
After=network-online.target
Wants=network-online.target

[Service]
Type=exec
WorkingDirectory={folder}
EnvironmentFile=-{folder}/fledge.env
ExecStart={command}
KillMode=mixed
TimeoutStopSec={drain_s + STOP_MARGIN_S:g}
Restart=on-failure
RestartSec=5
RestartPreventExitStatus=2
UMask=0077
NoNewPrivileges=true

[Install]
WantedBy=default.target
"""


def _quote_unit_word(word: str) -> str:
    """Quote for systemd: C escapes within quotes, specifiers after %, variables after $."""
    quoted = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return quoted if re.fullmatch(r"[\w@%+=:,./-]+", quoted) else f'"{quoted}"'


def dockerfile(version: str, wheel: str, arguments: Sequence[str], port: int) -> str:
    """Return a Dockerfile that serves on all addresses and so needs FLEDGE_API_KEY or a mounted --keys-file.

    fledge is installed from the package index, or from `wheel` in the build context.
    """
    bring = f"# Made by: pip wheel --no-deps FOLDER_OF_FLEDGE\nCOPY {wheel} /opt/\n" if wheel else ""
    source = f"/opt/{wheel}[openvino,serve]" if wheel else f"fledge[openvino,serve]=={version}"
    entry = json.dumps(["fledge", "serve", *arguments, "--host", "0.0.0.0"])  # noqa: S104 (behind a key)
    return f"""FROM python:3.11-slim
{bring}RUN pip install --no-cache-dir "{source}"
RUN useradd --create-home fledge
USER fledge
WORKDIR /home/fledge
RUN mkdir --mode 700 .fledge
# The release comes from MLFLOW_TRACKING_URI, or from a .fledge folder that is mounted here.
# A key is needed: docker run --env FLEDGE_API_KEY ... --env FLEDGE_ALLOWED_HOSTS=name.of.this.service
VOLUME /home/fledge/.fledge
EXPOSE {port}
STOPSIGNAL SIGTERM
ENTRYPOINT {entry}
"""
