"""The command line: a table of commands, imported when called, and the one place that catches errors."""

import contextlib
import gc
import importlib
import logging
import os
import signal
import sys
import threading
from typing import Any, NoReturn

import click
from click.exceptions import NoSuchCommand

COMMANDS = {
    "demo": ("fledge.cli.demo:demo", "An end-to-end run of a small chat model, in two minutes."),
    "experiment": ("fledge.cli.experiment:experiment", "Ask all questions with all prompts."),
    "runs": ("fledge.cli.runs:runs", "List experiments, newest first."),
    "answers": ("fledge.cli.runs:answers", "Show the answers of an experiment."),
    "compare": ("fledge.cli.comparison:compare", "Verdicts on the arms of an experiment."),
    "evaluate": ("fledge.cli.evaluation:evaluate", "Score a model, a release or a URL, with gates."),
    "judge": ("fledge.cli.judge:judge", "Measure a judge's agreement with people."),
    "plan": ("fledge.cli.comparison:plan", "Compute how many questions a comparison needs."),
    "prompts": ("fledge.cli.prompts:prompts", "The prompt registry."),
    "questions": ("fledge.cli.questions:questions", "Show, validate, sample and register question sets."),
    "register": ("fledge.cli.registry:register", "Register a release."),
    "promote": ("fledge.cli.registry:promote", "Move an alias to a release, given evidence."),
    "verify": ("fledge.cli.registry:verify", "Check a release against its manifest."),
    "rollback": ("fledge.cli.registry:rollback", "Undo the last promotion of an alias."),
    "history": ("fledge.cli.registry:history", "Show who moved which alias, when and why."),
    "serve": ("fledge.cli.endpoints:serve", "Serve a release."),
    "run": ("fledge.cli.run:run", "Register, promote and serve a model in one step."),
    "status": ("fledge.cli.endpoints:status", "Show the running endpoints."),
    "stop": ("fledge.cli.endpoints:stop", "Stop an endpoint."),
    "restart": ("fledge.cli.endpoints:restart", "Stop an endpoint and start it again."),
    "logs": ("fledge.cli.endpoints:logs", "Show the log of an endpoint."),
    "test": ("fledge.cli.endpoints:test", "Run a smoke test of an endpoint."),
    "chat": ("fledge.cli.chat:chat", "Talk to an endpoint or a model."),
    "feedback": ("fledge.cli.endpoints:feedback", "Give feedback on an answer."),
    "monitor": ("fledge.cli.endpoints:monitor", "Show request statistics of an endpoint."),
    "ui": ("fledge.cli.ui:ui", "Serve MLflow's UI on the tracking store."),
    "bench": ("fledge.cli.bench:bench", "Benchmark fledge against its alternatives."),
    "doctor": ("fledge.cli.doctor:doctor", "Check this machine and its engines."),
    "config": ("fledge.cli.config:config", "Show settings and their sources."),
}
INTERRUPTED = 130
DRIVERS = ("psycopg2", "pymysql", "pymssql")  # of SQL stores; MLflow does not install them


class Commands(click.Group):
    """A group that imports a command only when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            if ctx.resilient_parsing:  # shell completion
                return None
            raise NoSuchCommand(cmd_name, possibilities=COMMANDS, ctx=ctx)
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="fledge")
@click.option("-v", "--verbose", is_flag=True, help="Log what happens, with the seconds since the start.")
@click.option("--debug", is_flag=True, expose_value=False, help="Show stack traces.")
def app(verbose: bool) -> None:
    """Take a Hugging Face language model from its first experiment to a monitored endpoint."""
    if verbose:
        logging.getLogger("fledge").setLevel(logging.DEBUG)
    if not {"-h", "--help"} & set(sys.argv):
        _say_unknown_settings()


def _say_unknown_settings() -> None:
    from fledge.core.settings import Workspace, unknown_keys

    if unknown_keys(Workspace):  # the others may be settings of a command, which takes longer to check
        from fledge.cli.config import say_unknown_keys

        say_unknown_keys()


def main() -> NoReturn:
    """Run the command line and end the process with its exit code."""
    gc.set_threshold(50_000, 20, 20)  # importing MLflow creates a million objects, none of them garbage
    for number in (signal.SIGINT, signal.SIGTERM):  # even if the parent shell ignored them
        signal.signal(number, _interrupt)
    sys.unraisablehook = _repeat_interrupt
    debug = "--debug" in sys.argv
    log = logging.getLogger("fledge")
    log.addHandler(_MessageHandler())
    log.setLevel(logging.INFO)
    log.propagate = False
    if "--json" in sys.argv:
        from fledge.cli.output import keep_stdout

        keep_stdout()
    try:
        code = app.main(standalone_mode=False)
    except click.exceptions.Abort:
        code = _say_interrupted()
    except KeyboardInterrupt:
        code = _say_interrupted()
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except Exception as error:
        from fledge.cli.output import ReaderLeftError, leave

        if isinstance(error, ReaderLeftError):
            leave()
            sys.exit(0)
        if debug:
            raise
        code = _explain(error)
    if code == INTERRUPTED:
        _exit_now()
    gc.freeze()  # the collection at exit would scan all objects of MLflow, which takes a second
    sys.exit(code if isinstance(code, int) else 0)


class _MessageHandler(logging.Handler):
    """Prints log records of fledge as messages."""

    def emit(self, record: logging.LogRecord) -> None:
        from fledge.cli.output import message

        text = record.getMessage()
        message(f"{record.relativeCreated / 1000:6.2f} s  {text}" if record.levelno == logging.DEBUG else text)


def _interrupt(*_: Any) -> NoReturn:
    raise KeyboardInterrupt


def _repeat_interrupt(lost: "sys.UnraisableHookArgs") -> None:
    """Raise SIGINT again if a `KeyboardInterrupt` was lost in a finalizer of Python."""
    if issubclass(lost.exc_type, KeyboardInterrupt):
        threading.Timer(0.05, signal.raise_signal, [signal.SIGINT]).start()
    else:
        sys.__unraisablehook__(lost)


def _is_interruption(error: BaseException) -> bool:
    """Return whether a `KeyboardInterrupt` caused `error`: Python 3.11 wraps what `__set_name__` raises."""
    from fledge.core.errors import FledgeError

    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, (FledgeError, KeyboardInterrupt)):
        cause = cause.__cause__ or cause.__context__
    return isinstance(cause, KeyboardInterrupt)


def _say_interrupted() -> int:
    from fledge.cli.output import message

    message("interrupted")
    return INTERRUPTED


def _exit_now() -> NoReturn:
    """Exit without joining threads: one that was starting when the interruption came may never end."""
    for file in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # closed by us or by the parent
            file.flush()
    os._exit(INTERRUPTED)


def _explain(error: Exception) -> int:
    from fledge.cli.output import show_error
    from fledge.core.errors import FledgeError

    if _is_interruption(error):
        return _say_interrupted()
    if isinstance(error, FledgeError):
        show_error(error.message, error.hint)
        return error.exit_code
    if isinstance(error, ModuleNotFoundError):
        from fledge.core.installation import install_command

        hint = f"pip install {error.name}" if error.name in DRIVERS else install_command("models,openvino,serve")
        show_error(f"{error.name} is not installed", hint)
        return 1
    if type(error).__module__.startswith("mlflow"):
        show_error(
            f"MLflow: {str(error).splitlines()[0]}", "check MLFLOW_TRACKING_URI; for a stack trace: fledge --debug ..."
        )
        return 1
    show_error(f"{type(error).__name__}: {error}", "this is a bug in fledge; for a stack trace: fledge --debug ...")
    return 1
