"""Few-shot prompts: questions with their answers as examples before the question."""

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
    """Return the examples for the arm that needs the most of them; none is among the questions `asked`.

    They come from `--shots-from`, else from the other questions of the set, which may be `given`. They have full
    references, even if `--reference-pattern` scores only a part. Raises `InputError` if there are too few.
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
    known = {_normalize(item.question) for item in asked.questions}
    known_ids = {item.id for item in asked.questions} if not config.shots_from else set()
    others = [item for item in found if _normalize(item.question) not in known and item.id not in known_ids]
    usable = QuestionSet(source, tuple(item for item in others if item.reference))
    if len(usable.questions) < count:
        overlap = len(found) - len(others)
        raise InputError(
            f"--shots {count} needs {counted(count, 'example')} with a reference, and {source} has "
            f"{len(usable.questions)} (of {len(found)} questions, {overlap} are asked in the "
            "experiment)",
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
    """Return the prompt of each arm. One with examples is registered as a separate prompt, such as `NAME-3-shot`."""
    found: list[Prompt | Draft] = []
    for arm, prompt in zip(arms, prompts, strict=True):
        if not arm.shots:
            found.append(prompt)
            continue
        prompt_format = resolve_format(prompt, models[arm.model], arm.format if arm.format != "auto" else config.format)
        source = config.shots_from or config.questions
        found.append(few_shot(prompt, prompt_format, shots[: arm.shots], source))
    return [register_few_shot(item, store) if isinstance(item, Draft) else item for item in found]


def register_few_shot(draft: Draft, store: PromptStore) -> Prompt:
    """Return the version with this content, registering it if there is none."""
    with contextlib.suppress(InputError):  # a new name
        for version in reversed(store.versions(draft.name)):
            if draft.makes(version):
                return version
    return store.register(draft)


def few_shot(prompt: Prompt, prompt_format: Format, shots: Sequence[Question], source: str) -> Draft:
    """Return the prompt with examples: as earlier turns for chat, as text before its own for completion.

    Raises `InputError` if an example lacks a column that the prompt needs.
    """
    template = apply_format(prompt, prompt_format).template
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
            f"prompt {prompt.label} takes no examples: its messages must end with a user turn and contain the question",
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


def _normalize(text: str) -> str:
    return " ".join(text.casefold().split())
