"""Errors for users: what failed, why, and the next command."""


class FledgeError(Exception):
    """A failure that the user can act on.

    `hint` is the next step, often a command; `exit_code` is that of the command line.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class InputError(FledgeError, ValueError):
    """Invalid usage or input; nothing was started or written."""

    exit_code = 2


class ContextLengthError(InputError):
    """A prompt that leaves no room in the model's context window."""


class StructureError(InputError):
    """A structure of an answer that cannot be enforced; `param` is the parameter of a request."""

    def __init__(self, message: str, hint: str = "simplify it, or leave it out", param: str = "") -> None:
        super().__init__(message, hint)
        self.param = param


class RefusedError(FledgeError):
    """A failed gate or comparison, or missing evidence."""

    exit_code = 3


class CrashLoopError(FledgeError):
    """An endpoint whose processes crash repeatedly."""

    exit_code = 4


class ConflictError(FledgeError):
    """Another process made a change first; nothing was written."""


class DamagedError(FledgeError):
    """Files differ from the registered ones."""


class MissingExtraError(FledgeError):
    """An optional part of fledge is not installed."""

    def __init__(self, what: str, extra: str) -> None:
        from fledge.core.installation import install_command

        super().__init__(f"{what} is not installed", hint=install_command(extra))


def rebuild(kind: str, message: str, hint: str) -> FledgeError:
    """Return an error from another process: of the class named `kind`, or a `FledgeError` if there is no such class."""
    known = {
        cls.__name__: cls
        for cls in (
            InputError,
            ContextLengthError,
            StructureError,
            RefusedError,
            DamagedError,
            ConflictError,
            CrashLoopError,
        )
    }
    return known.get(kind, FledgeError)(message, hint)
