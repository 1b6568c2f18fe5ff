"""Check grammars before the engine gets them, in a child process (`grammar_compiler.py`)."""

from collections.abc import Callable
from pathlib import Path

import msgspec

from fledge.core.errors import FledgeError, InputError, StructureError
from fledge.engines.guarded_child import GuardedChild

MAX_REMEMBERED = 1_000

Done = Callable[[InputError | None], None]


class CompilerConfig(msgspec.Struct):
    """A folder with OpenVINO's tokenizer, and the size of the model's vocabulary."""

    folder: str
    vocabulary: int


class GrammarChecker(GuardedChild):
    """Compiles grammars, in order; the last results are remembered."""

    module = "fledge.engines.grammar_compiler"

    def __init__(self, folder: Path, vocabulary: int) -> None:
        super().__init__(msgspec.msgpack.encode(CompilerConfig(str(folder), vocabulary)))
        self._results: dict[str, InputError | None] = {}

    def check(self, grammar: str, done: Done) -> None:
        """Call `done` with None for a grammar that can be used, else with the error."""
        if grammar in self._results:
            done(self._results[grammar])
            return

        def receive(reply: bytes | FledgeError) -> None:
            error: InputError | None = None
            if isinstance(reply, InputError):
                error = reply
            elif reply:
                error = StructureError(f"invalid grammar: {bytes(reply).decode()}")  # type: ignore[arg-type]
            if len(self._results) >= MAX_REMEMBERED:
                self._results.clear()
            self._results[grammar] = error
            done(error)

        self.submit(grammar.encode(), receive)

    def _explain_death(self, limit: str) -> FledgeError:
        return StructureError(f"the grammar takes {limit} to compile")

    def _explain_no_start(self) -> FledgeError:
        return FledgeError("the compiler of grammars cannot be started", hint="fledge doctor")
