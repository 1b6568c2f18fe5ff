"""Few-shot prompts: questions with their answers, put before the question that a prompt asks."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

from fledge.core.errors import InputError
from fledge.core.texts import counted
from fledge.core.types import Format, Message, Say
from fledge.experiments.arms import Model, resolve_format
from fledge.experiments.config import ArmConfig, ExperimentConfig
from fledge.prompts.format import apply_format
from fledge.prompts.prompt import Draft, Prompt, PromptStore
from fledge.prompts.template import escape, fill, variables
from fledge.questions.question_set import Question, QuestionSet
from fledge.questions.sources import read_questions


def draw_shots(
    config: ExperimentConfig, arms: Sequence[ArmConfig], asked: QuestionSet, given: QuestionSet | None, say: Say
) -> tuple[Question, ...]:
    """As many examples as the arm with the most of them takes, none of which is among the questions `asked`.

    They come from `--shots-from`, else from the questions of the set, which may be `given`, that are not asked. What is
    read here has its whole references, whatever part of them `--reference-pattern` scores. Raises `InputError` where
    there are too few.
    """
    count = max((arm.shots for arm in arms), default=0)
    if not count:
        return ()
    source = config.shots_from or config.questions
    if given is not None and not config.shots_from:
        found = given.questions
    else:
        found = read_questions(
            source, layout=replace(config.layout, reference_pattern=""), workspace=config, say=say
        ).questions
    known = {_normalized(item.question) for item in asked.questions}
    known_ids = {item.id for item in asked.questions} if not config.shots_from else set()
    others = [item for item in found if _normalized(item.question) not in known and item.id not in known_ids]
    usable = QuestionSet(source, tuple(item for item in others if item.reference))
    if len(usable.questions) < count:
        overlap = len(found) - len(others)
        raise InputError(
            f"--shots {count} needs {counted(count, 'example')} with a reference, and {source} has "
            f"{len(usable.questions)} (of {len(found)} questions {overlap} are asked themselves, which no example may "
            "be)",
            hint="--shots-from FILE with other questions, or ask fewer with --limit",
        )
    return usable.sample(count, config.order_seed).questions


def add_shots(
    config: ExperimentConfig,
    arms: Sequence[ArmConfig],
    prompts: Sequence[Prompt],
    models: Mapping[str, Model],
    shots: Sequence[Question],
    store: PromptStore,
) -> list[Prompt]:
    """The prompt of each arm; one with examples is registered as a prompt of its own, `NAME-3-shot`."""
    found: list[Prompt | Draft] = []
    for arm, prompt in zip(arms, prompts, strict=True):
        if not arm.shots:
            found.append(prompt)
            continue
        form = resolve_format(prompt, models[arm.model], arm.format if arm.format != "auto" else config.format)
        source = config.shots_from or config.questions
        found.append(few_shot(prompt, form, shots[: arm.shots], source))
    return [register_few_shot(item, store) if isinstance(item, Draft) else item for item in found]


def register_few_shot(draft: Draft, store: PromptStore) -> Prompt:
    """The version with this content, also where it is not the newest; a new one where there is none."""
    with contextlib.suppress(InputError):  # of a name that is new
        for version in reversed(store.versions(draft.name)):
            if draft.makes(version):
                return version
    return store.register(draft)


def few_shot(prompt: Prompt, form: Format, shots: Sequence[Question], source: str) -> Draft:
    """The prompt with examples: for chat as earlier turns before its last one, for completion as text before its own.

    Raises `InputError` where the prompt asks for a column that an example does not have.
    """
    template = apply_format(prompt, form).template
    draft = Draft(
        f"{prompt.name}-{len(shots)}-shot",
        template,
        settings=dict(prompt.settings),
        message=f"{prompt.label} with {counted(len(shots), 'example')} from {source}"[:500],
        format=prompt.format if isinstance(template, str) else "auto",
        system=prompt.system if isinstance(template, str) else "",
    )
    if isinstance(template, str):
        examples = [f"{escape(fill(template, item.variables))} {escape(item.reference or '')}\n\n" for item in shots]
        return replace(draft, template="".join(examples) + template)
    start = next((at for at, turn in enumerate(template) if turn.role != "system" and variables(turn.content)), None)
    if start is None or template[-1].role != "user":
        raise InputError(
            f"prompt {prompt.label} takes no examples: its last turn is not one of the user that asks the question",
            hint="ask it without --shots, or end its messages with: role: user",
        )
    before = [
        turn
        for item in shots
        for turn in (
            *(replace(part, content=escape(fill(part.content, item.variables))) for part in template[start:]),
            Message("assistant", escape(item.reference or "")),
        )
    ]
    return replace(draft, template=(*template[:start], *before, *template[start:]))


def _normalized(text: str) -> str:
    return " ".join(text.casefold().split())
