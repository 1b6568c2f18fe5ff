"""Protect cleanup and starts from interruption."""

import atexit
import contextlib
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def shield_from_interrupts() -> Iterator[None]:
    """Ignore SIGINT and SIGTERM in the block; do nothing outside the main thread, which alone receives them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield a folder that is deleted after the block.

    After an exception it is deleted again at exit: threads of an interrupted download may still write to it.
    """
    folder = Path(tempfile.mkdtemp(prefix="fledge-"))
    try:
        yield folder
    except BaseException:
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def postpone_interrupts() -> Iterator[None]:
    """Defer SIGINT and SIGTERM to the end of the block."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: arrived.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if arrived:
            signal.raise_signal(arrived[0])
