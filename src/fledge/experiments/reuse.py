"""Answers that an earlier experiment in the state folder has, for one that asks the same."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from fledge.core.types import Say
from fledge.experiments.arms import Arm
from fledge.experiments.cell_runner import score_again
from fledge.experiments.cells import Cell
from fledge.experiments.journal import Earlier, Journal, earlier_experiments, read_answers
from fledge.experiments.run_ids import short_id

ENGINES = ("openvino", "llamacpp", "transformers")  # others may answer otherwise tomorrow, as what is behind a URL


def reuse_answers(journal: Journal, say: Say) -> None:
    """Take over answers to the same questions, of the same prompt version, model, settings and seed, and score them
    anew. What needs log probabilities is asked again, as no journal has them."""
    config = journal.plan.config
    if config.logprobs:
        return
    cells = {cell.key: cell for cell in journal.unanswered()}
    reused: Counter[str] = Counter()
    for earlier in earlier_experiments(config, journal.plan.run_id):
        ours = dict(_same_cells(journal.plan.arms, earlier, cells))
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
                ttft_s=None,  # times of other conditions
                latency_s=None,
            )
            journal.append(score_again(own, cell.question, config.chosen_scorers))
            del cells[cell.key]
            reused[earlier.folder.name] += 1
    for run_id, count in reused.items():
        say(f"reused {count:,} answers from run {short_id(run_id)}; --no-reuse generates them again")


def _same_cells(arms: Sequence[Arm], earlier: Earlier, cells: Mapping[str, Cell]) -> Iterator[tuple[str, Cell]]:
    """Our cells by the key that the same cell had in an earlier experiment, where an arm may have had another name."""
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
