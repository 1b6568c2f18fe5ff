"""`fledge demo`."""

import shlex
import shutil
import sys
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.status import Status
from rich.text import Text

from fledge.cli.options import command
from fledge.cli.output import emit, err, json_option, message

if TYPE_CHECKING:
    from fledge.demo.end_to_end import DemoListener, DemoResult, DemoStage

LONGEST_ANSWER = 240  # characters shown


@command()
@click.option("--home", type=click.Path(path_type=Path, file_okay=False), help="Keep everything in this folder.")
@click.option("--model", help="Model instead of SmolLM2, as in `fledge experiment`.")
@click.option("--questions", default="default", help="Your own questions: a .jsonl, .csv or .yaml file.")
@click.option("--port", type=int, help="Port of the endpoint. [default: 5001]")
@click.option("--keep-serving", is_flag=True, help="Leave the endpoint running.")
@json_option
def demo(
    home: Path | None, model: str | None, questions: str, port: int | None, keep_serving: bool, as_json: bool
) -> None:
    """Run a small chat model end to end: experiment, verdict, release, endpoint, traces, report."""
    from fledge.demo.end_to_end import run_demo

    with Status("", console=err()) as spinner:
        result = run_demo(
            home=home,
            model=model,
            questions=questions,
            port=port,
            keep_serving=keep_serving,
            listener=_listener(spinner),
        )
    emit(as_json, result.as_dict(), *_format_lines(result))
    if not as_json:
        _say_next(result, home, keep_serving)


def _listener(spinner: Status) -> "DemoListener":
    """Return a listener that prints a line to stderr for each finished stage and shows progress on a terminal."""
    from fledge.demo.end_to_end import DemoListener

    running, began = "", 0.0

    def started(stage: str, seconds_left: float) -> None:
        nonlocal running, began
        began = time.monotonic()
        running = f"{stage}, about {seconds_left:.0f} s left"
        spinner.update(running)

    def ended(stage: "DemoStage", words: str) -> None:
        mark = "ok" if stage.ok else "--"
        message(f"{mark} {stage.name:<11}{stage.seconds:6.1f} s  {words}")

    def cells(done: int, total: int, failed: int, tokens: int) -> None:
        rate = tokens / max(time.monotonic() - began, 1.0)
        spinner.update(f"{running}: {done}/{total} answers, {failed} failed, {rate:.0f} tokens/s")

    return DemoListener(started, ended, cells)


def _format_lines(result: "DemoResult") -> list[str | Text]:
    shown: list[str | Text] = [f"{sum(stage.seconds for stage in result.stages):.1f} s in all"]
    comparison = result.comparison
    if comparison is not None:
        shown += [
            Text("\nverdicts", style="bold"),
            *(f"  {pair.summary()}" for pair in comparison.pairs),
        ]
        shown += [f"  {comparison.conclusion()}", *(f"  warning: {item.text}" for item in comparison.warnings)]
        shown += [f"  champion {result.promotion}", Text("\nthree questions and their answers", style="bold")]
        for question in list(dict.fromkeys(row["question"] for row in result.answers))[:3]:
            shown.append(f"  Q: {question}")
            shown += [_format_answer(row) for row in result.answers if row["question"] == question]
    if result.model == "embedded":
        shown.append("\nThe embedded model recites its training data: this run tests the workflow, not the prompts.")
    return shown


def _format_answer(row: dict[str, Any]) -> str:
    text = " ".join((row["answer"] or row["error"]).split())
    return f"     {row['arm']}: {textwrap.shorten(text, LONGEST_ANSWER, placeholder=' ...')}"


def _say_next(result: "DemoResult", home: Path | None, keep_serving: bool) -> None:
    fledge = _program(relative=home is None)
    message("\nnext:")
    if home is not None:
        message(f"  cd {shlex.quote(str(home))}")
    if result.experiment:
        message(f"  {fledge} compare {result.experiment.run_id} --all-pairs")
    if keep_serving:
        message(f"  {fledge} test {result.url}    then    {fledge} stop")
    else:
        message(f"  {fledge} serve {result.model_name}@champion --detach    then    {fledge} test {result.url}")
    message(f"  {fledge} ui    shows runs, traces and prompts at http://127.0.0.1:5050")


def _program(*, relative: bool) -> str:
    """Return the command that starts this `fledge`, which may not be on the PATH."""
    program = Path(sys.argv[0]).absolute()
    if program.name != "fledge" or shutil.which("fledge") == str(program):
        return "fledge"
    if relative and program.is_relative_to(Path.cwd()):
        program = program.relative_to(Path.cwd())
    return shlex.quote(str(program))
