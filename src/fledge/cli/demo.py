"""`fledge demo`."""

import os
import shlex
import sys
from pathlib import Path

import click
from rich.console import Console
from rich.status import Status

from fledge.cli.output import emit, err, json_option, message, table
from fledge.demo.life import Life, Listener, Stage, run_demo


@click.command()
@click.option("--home", type=click.Path(path_type=Path, file_okay=False), help="Keep everything in this folder.")
@click.option("--questions", default="default", help="Your own questions: a .jsonl, .csv or .yaml file.")
@click.option("--port", type=int, help="Port of the endpoint. [default: 5001]")
@click.option("--keep-serving", is_flag=True, help="Leave the endpoint running.")
@json_option
def demo(home: Path | None, questions: str, port: int | None, keep_serving: bool, as_json: bool) -> None:
    """A whole life on the embedded model: experiment, verdict, release, endpoint, traces, report."""
    with Status("", console=err()) as spinner:
        life = run_demo(
            home=home, questions=questions, port=port, keep_serving=keep_serving, listener=_listener(spinner)
        )
    emit(as_json, life.as_dict(), lambda console: _show(console, life))
    if not as_json:
        _say_next(life, home, keep_serving)


def _listener(spinner: Status) -> Listener:
    """A line on stderr for each stage as it ends, and the running one with the time left where there is a terminal."""
    running = ""

    def started(stage: str, seconds_left: float) -> None:
        nonlocal running
        running = f"{stage}, about {seconds_left:.0f} s left"
        spinner.update(running)

    def ended(stage: Stage, words: str) -> None:
        mark = "ok" if stage.ok else "--"
        message(f"{mark} {stage.name:<11}{stage.seconds:6.1f} s  {words}")

    def cells(done: int, total: int, failed: int, tokens: int) -> None:
        spinner.update(f"{running}: {done}/{total} answers, {failed} failed, {tokens} tokens")

    return Listener(started, ended, cells)


def _show(console: Console, life: Life) -> None:
    rows = [[stage.name, f"{stage.seconds:.1f}"] for stage in life.stages]
    rows.append(["in all", f"{sum(stage.seconds for stage in life.stages):.1f}"])
    console.print(table("stages", ["stage", "seconds"], rows))
    if life.comparison:
        console.print("\nverdicts", style="bold")
        for pair in life.comparison.pairs:
            console.print(f"  {pair.in_words(life.comparison.metric)}", markup=False)
        console.print(f"  champion {life.promotion}", markup=False)
    chosen = life.comparison.winner or life.comparison.leader if life.comparison else ""
    console.print("\nthree questions and their answers", style="bold")
    for row in [row for row in life.answers if row["arm"] == chosen][:3]:
        console.print(f"  Q: {row['question']}\n  A: {row['answer'] or row['error']}", markup=False)
    console.print("\nThe model in the box is a small memorising model: this proves the way, not the prompts.")


def _say_next(life: Life, home: Path | None, keep_serving: bool) -> None:
    program = Path(sys.argv[0])
    fledge = (
        "fledge" if os.access(program, os.X_OK) is False or not program.is_absolute() else shlex.quote(str(program))
    )
    if program.is_relative_to(Path.cwd()) and home is None:
        fledge = str(program.relative_to(Path.cwd()))
    message("\nnext:")
    if home is not None:
        message(f"  cd {shlex.quote(str(home))}")
    if life.experiment:
        message(f"  {fledge} compare {life.experiment.run_id} --all-pairs")
    if keep_serving:
        message(f"  {fledge} test {life.url}    then    {fledge} stop")
    else:
        message(f"  {fledge} serve {life.model_name}@champion --detach    then    {fledge} test {life.url}")
    message(f"  {fledge} ui    shows runs, traces and prompts at http://127.0.0.1:5050")
