"""Reuse answers of earlier experiments in the state folder."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from fledge.core.types import Say
from fledge.experiments.arms import Arm
from fledge.experiments.cell_runner import score_again
from fledge.experiments.cells import Cell
from fledge.experiments.journal import EarlierExperiment, Journal, find_earlier_experiments, read_answers
from fledge.experiments.run_ids import short_id

ENGINES = ("openvino", "llamacpp", "transformers")  # others may change, such as a model behind a URL


def reuse_answers(journal: Journal, say: Say) -> None:
    """Copy answers to the same questions with the same prompt version, model, settings and seed, and score them again.

    Reuses none if a scorer needs log probabilities, which journals lack.
    """
    config = journal.plan.config
    if config.logprobs:
        return
    cells = {cell.key: cell for cell in journal.unanswered()}
    reused: Counter[str] = Counter()
    for earlier in find_earlier_experiments(config, journal.plan.run_id):
        ours = dict(_match_cells(journal.plan.arms, earlier, cells))
        for answer in read_answers(earlier.folder) if ours else ():
            cell = ours.get(answer.key)
            if cell is None or answer.error or cell.key not in cells:
                continue
            own = replace(
                answer,
                key=cell.key,
                arm=cell.arm,
                attempt=1,
                graded=not config.judging.judge,
                reused_from=answer.reused_from or earlier.folder.name,
                ttft_s=None,  # measured under other conditions
                latency_s=None,
            )
            journal.append(score_again(own, cell.question, config.chosen_scorers))
            del cells[cell.key]
            reused[earlier.folder.name] += 1
    for run_id, count in reused.items():
        say(f"reused {count:,} answers from run {short_id(run_id)}; --no-reuse generates them again")


def _match_cells(
    arms: Sequence[Arm], earlier: EarlierExperiment, cells: Mapping[str, Cell]
) -> Iterator[tuple[str, Cell]]:
    """Yield keys of the earlier experiment with the same cell of this one; the arm may have had another name."""
    for arm in arms:
        if arm.prompt is None or arm.engine not in ENGINES:
            continue
        for name in [other.name for other in earlier.arms if _is_same(arm, other)]:
            renamed = replace(arm, name=name)
            for cell in cells.values():
                known, own = earlier.variables.get(cell.question.id, {}), cell.question.variables
                filled_alike = all(known.get(variable) == own.get(variable) for variable in arm.prompt.variables)
                if cell.arm == arm.name and filled_alike:
                    yield renamed.key(cell.question, cell.sample), cell


def _is_same(arm: Arm, other: Arm) -> bool:
    if arm.prompt is None or other.prompt is None:
        return False
    prompts = (arm.prompt.template, arm.prompt.system) == (other.prompt.template, other.prompt.system)
    return prompts and (arm.digest, arm.mode, arm.engine) == (other.digest, other.mode, other.engine)
