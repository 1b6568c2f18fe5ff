"""Alias moves, damaged releases, unreachable servers and failing starts."""

import os
import random
import signal
import socket
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from mlflow import MlflowClient

from fledge.registry.release import promote
from fledge.releases import release_cache
from fledge.supervision.config import ServeConfig
from tests.conftest import Run
from tests.rollout.test_moves import config as two_releases
from tests.serving.harness import NAME, create_workspace, free_port, until
from tests.soak.clients import Clients, ConcurrentRequests
from tests.soak.faults import (
    Running,
    begin,
    check_gone,
    check_records,
    check_traces,
    finish,
    running,
    ship_the_rest,
)
from tests.soak.relay import Mode, Relay
from tests.soak.table import Figures, fault

__all__ = ["two_releases"]

MOVES = 50
ASKED: dict[str, object] = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}


def _champion(config: ServeConfig) -> str:
    found = MlflowClient(config.tracking).get_model_version_by_alias(NAME, "champion")
    return f"{NAME}/{found.version}"


def _promote(config: ServeConfig, release: str) -> None:
    promote(NAME, int(release.rpartition("/")[2]), force=True, reason="test", workspace=config)


def _other_release(release: str) -> str:
    return {f"{NAME}/1": f"{NAME}/2", f"{NAME}/2": f"{NAME}/1"}[release]


def _has_engine(started: Running, release: str) -> bool:
    return started.pid("engine", release) > 0


def _answers(started: Running, release: str) -> bool:
    return ConcurrentRequests(started.url, [ASKED]).outcomes()[0].release == release


def _has_answered(clients: Clients, release: str, since: float) -> bool:
    return any(item.release == release and item.began > since for item in clients.outcomes[-8:])


@fault(
    "19",
    "kill -9 of the supervisor in the middle of a release switch, under load",
    "no process is left; the alias is the new release, and by it the next start answers soon; all traces are there",
    quick=True,
)
def test_supervisor_killed_during_a_switch_restarts_with_the_new_release(
    two_releases: ServeConfig, times: int, figures: Figures
) -> None:
    for _ in range(times):
        new = _other_release(_champion(two_releases))
        with running(two_releases) as started:
            with Clients(started.url, 4) as clients:
                clients.wait_for(20)
                _promote(two_releases, new)
                assert until(partial(_has_engine, started, new), 30.0)
                time.sleep(random.random() * 2)
                killed = time.monotonic()
                os.kill(started.process.pid, signal.SIGKILL)
                check_gone(started)
            assert {item.status for item in clients.outcomes} <= {200, 503, 0}
            figures["records lost from memory"].append(check_records(started, clients.outcomes, killed=killed))
        assert _champion(two_releases) == new
        began = time.monotonic()
        with running(two_releases, port=started.config.port) as restarted:
            figures["s until the next is ready"].append(time.monotonic() - began)
            assert until(partial(_answers, restarted, new), 60.0)
            figures["s until the new release answers"].append(time.monotonic() - began)
        ship_the_rest(started)
        check_traces(started)


def _damage_weights(config: ServeConfig) -> str:
    """Change a bit of the champion's weights and return the file, rewritten because it has hard links."""
    folder = release_cache.recall(
        config.state_dir / "releases", config.tracking, release_cache.ReleaseRef(NAME, "champion", "")
    )
    assert folder is not None
    path = random.choice([*folder.glob("snapshot/*.safetensors"), *folder.glob("engines/*/*.bin")])
    content = bytearray(path.read_bytes())
    content[random.randrange(len(content))] ^= 1 << random.randrange(8)
    path.unlink()
    path.write_bytes(content)
    return path.relative_to(folder).as_posix()


@fault(
    "20",
    "one bit of a file of weights is another",
    "not loaded: exit code 1, and the log names the file",
)
def test_damaged_weights_are_not_loaded(tmp_path: Path, engine_cache: Path, times: int, figures: Figures) -> None:
    for number in range(times):
        config = create_workspace(tmp_path / str(number), engine_cache)
        file, began = _damage_weights(config), time.monotonic()
        started = begin(config)
        assert started.code(60.0) == 1
        figures["s until the exit"].append(time.monotonic() - began)
        assert f"release mine/1: {file} was changed; it is not loaded" in started.log
        check_gone(started)


@fault(
    "21", f"{MOVES} alias moves under load", "no request fails, every move arrives, one engine at the end", times=MOVES
)
def test_fifty_alias_moves_under_load_fail_no_request(two_releases: ServeConfig, times: int, figures: Figures) -> None:
    with running(two_releases, engine="scripted") as started:
        with Clients(started.url, 8, pause=0.3) as clients:
            release = _champion(two_releases)
            for _ in range(times):
                release, began = _other_release(release), time.monotonic()
                _promote(two_releases, release)
                assert until(partial(_has_answered, clients, release, began), 60.0), started.log
                figures["s from the promotion to the first answer"].append(time.monotonic() - began)
        assert {(item.status, item.broken) for item in clients.outcomes} == {(200, False)}
        figures["requests"].append(len(clients.outcomes))
        assert until(lambda: [item.release for item in started.status.processes if item.release] == [release])
        finish(started, clients.outcomes)


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Make the Hub unreachable, with an empty cache."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "nothing"))


@fault(
    "22",
    "Hub and tracking server out of reach at the start: nobody listens, or nobody answers",
    "a release that is kept here is served at once; what was asked waits in the outbox",
)
def test_cached_release_starts_without_hub_and_tracking_server(
    config: ServeConfig, unreachable: None, times: int, figures: Figures
) -> None:
    modes: dict[str, Mode] = {"nobody listens": "refusing", "nobody answers": "silent"}
    relay = Relay(free_port(), free_port())
    reference = release_cache.ReleaseRef(NAME, "champion", "")
    folder = release_cache.recall(config.state_dir / "releases", config.tracking, reference)
    assert folder is not None
    release_cache.remember(folder.parent, relay.url, reference, folder)
    try:
        for _ in range(times):
            for what, mode in modes.items():
                relay.set_mode(mode)
                began = time.monotonic()
                with running(replace(config, tracking_uri=relay.url, watch_s=1.0)) as started:
                    figures[f"s until ready, {what}"].append(time.monotonic() - began)
                    outcomes = ConcurrentRequests(started.url, [ASKED] * 4).outcomes()
                    assert [item.status for item in outcomes] == [200] * 4
                    check_records(started, outcomes)
    finally:
        relay.close()
    assert max(max(values) for values in figures.values()) < 20.0


@fault(
    "5b",
    "an engine that says why it cannot start (a device that is not there)",
    "`fledge serve` ends with exit code 1 and shows the error",
    quick=True,
)
def test_engine_that_cannot_start_is_reported(config: ServeConfig, fledge: Run, times: int, figures: Figures) -> None:
    for _ in range(times):
        began = time.monotonic()
        where = ("--tracking-uri", config.tracking, "--state", config.state, "--port", str(free_port()))
        done = fledge("serve", f"{NAME}@champion", "--detach", "--engine", "openvino", "--device", "gpu", *where)
        figures["s until the exit"].append(time.monotonic() - began)
        assert done.returncode == 1
        assert "the endpoint did not start" in done.stderr
        assert "gpu" in done.stderr.lower()
        assert "Traceback" not in done.stderr


@fault(
    "23",
    "port in use, bad setting, bad file of settings; release, version, keys or tracking server that are not there",
    "exit code 2 (the last 1) and two lines: what is wrong, and what to do",
)
def test_invalid_arguments_are_reported_in_two_lines(
    config: ServeConfig, fledge: Run, tmp_path: Path, times: int, figures: Figures
) -> None:
    where = ("--tracking-uri", config.tracking, "--state", config.state)
    settings = tmp_path / "settings"
    settings.mkdir()
    (settings / "fledge.toml").write_text('port = "abc"\n')
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        cases: list[tuple[list[str], Path, int, str]] = [
            ([f"{NAME}@champion", *where, "--port", port], tmp_path, 2, f"port {port} on 127.0.0.1 cannot be used"),
            ([f"{NAME}@champion", *where, "--max-running", "0"], tmp_path, 2, "max_running must be from 1 to 256"),
            ([f"{NAME}@champion", *where], settings, 2, "valid integer"),
            (["nobody@champion", *where], tmp_path, 2, "no release 'nobody@champion'"),
            ([f"{NAME}/7", *where], tmp_path, 2, f"no release '{NAME}/7'"),
            ([f"{NAME}@champion", *where, "--keys-file", "nothing"], tmp_path, 2, "keys in nothing cannot be read"),
            (["other@champion", "--tracking-uri", "http://127.0.0.1:9"], tmp_path, 1, "nothing listens there"),
        ]
        for _ in range(times):
            for arguments, folder, code, words in cases:
                began = time.monotonic()
                done = fledge("serve", *arguments, cwd=folder)
                figures["s until the exit"].append(time.monotonic() - began)
                assert (done.returncode, done.stdout) == (code, ""), done.stderr
                outcomes = done.stderr.splitlines()
                assert [line.partition(": ")[0] for line in outcomes] == ["error", "try"], outcomes
                assert words in outcomes[0]
