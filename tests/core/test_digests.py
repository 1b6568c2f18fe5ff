import hashlib
import os
import time
from pathlib import Path

import psutil
import pytest

from fledge.core.digests import STABLE_AFTER_NS, KnownDigests

CONTENT = os.urandom(8_000_000)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "model.bin"
    path.write_bytes(CONTENT)
    time.sleep(2 * STABLE_AFTER_NS / 1e9)
    return path


def _digest(path: Path) -> tuple[str, int]:
    """Return the digest of a file and the number of characters read for it."""
    known = KnownDigests(path.with_name("known.json"))
    before = psutil.Process().io_counters().read_chars
    found = known.digest(path)
    read = psutil.Process().io_counters().read_chars - before
    known.save()
    return found, read


def test_file_is_read_once(weights: Path) -> None:
    expected = hashlib.sha256(CONTENT).hexdigest()
    found, read = _digest(weights)
    assert found == expected
    assert read >= len(CONTENT)
    found, read = _digest(weights)
    assert found == expected
    assert read < len(CONTENT) / 100


def test_cached_digest_is_found_by_relative_and_linked_path(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _digest(weights)
    monkeypatch.chdir(weights.parent)
    link = Path("link")
    link.symlink_to(weights.parent)
    for path in (Path(weights.name), link / weights.name):
        assert _digest(path)[1] < len(CONTENT) / 100


def test_changed_file_is_read_again_despite_an_old_mtime(weights: Path) -> None:
    before = weights.stat()
    _digest(weights)
    with weights.open("r+b") as file:
        file.write(bytes([CONTENT[0] ^ 1]))
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert weights.stat().st_mtime_ns == before.st_mtime_ns
    assert _digest(weights)[0] == hashlib.sha256(weights.read_bytes()).hexdigest()


def test_replaced_file_is_read_again(weights: Path) -> None:
    _digest(weights)
    other = weights.with_name("other.bin")
    other.write_bytes(CONTENT[::-1])
    other.replace(weights)
    assert _digest(weights)[0] == hashlib.sha256(CONTENT[::-1]).hexdigest()


def test_recently_changed_file_is_not_cached(weights: Path) -> None:
    weights.write_bytes(CONTENT)
    _digest(weights)
    assert _digest(weights)[1] >= len(CONTENT)


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"model.bin": []}', "null"])
def test_damaged_cache_is_rebuilt(weights: Path, content: str) -> None:
    weights.with_name("known.json").write_text(content)
    assert _digest(weights)[0] == hashlib.sha256(CONTENT).hexdigest()
    assert _digest(weights)[1] < len(CONTENT) / 100
