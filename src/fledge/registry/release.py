"""`register`, `verify`, `promote`, `rollback` and `history`: the public functions for releases."""

import getpass
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from fledge.core.errors import ConflictError, InputError
from fledge.core.settings import Workspace, option
from fledge.core.types import Say, silent
from fledge.engines.openvino_files import export_seconds, known_files
from fledge.experiments.arms import default_prompt, resolve_format, resolve_generation
from fledge.experiments.config import ExperimentConfig
from fledge.prompts.base_store import DEFAULTS
from fledge.prompts.prompt import PromptStore, check_alias
from fledge.prompts.store import open_store
from fledge.registry import package
from fledge.registry.moves import AliasChange, AliasMove, HistoryNote, find_undoable
from fledge.registry.naming import check_syntax, derive_name
from fledge.registry.registered import Release
from fledge.registry.signing import check_key, check_signature
from fledge.registry.sources import source_of_model, source_of_run
from fledge.releases import release_cache
from fledge.releases.manifest import SIGNATURE, Manifest, Weights, read_cached
from fledge.tracking.connection import connect

if TYPE_CHECKING:
    from fledge.registry._mlflow_moves import MoveLog


class Verification(NamedTuple):
    """The result of `verify`: the number of files checked, and whether a signature exists and was checked."""

    name: str
    version: int
    digest: str
    files: int
    signed: bool
    signature_checked: bool


@dataclass(frozen=True)
class ReleaseConfig(Workspace):
    """Settings of the registry."""

    name: str = option("", "registered model; named after the model unless set", env="MODEL_NAME")
    engines: tuple[Literal["exact", "fast", "gguf", "none"], ...] = option(
        (), "engine files to include in a release: exact, fast, gguf or none; those of --engine and --mode unless set"
    )

    def name_for(self, model: str) -> str:
        """Return the registered name for a model."""
        return self.name or derive_name(model)


def register(
    config: ExperimentConfig | None = None,
    *,
    name: str | None = None,
    run_id: str | None = None,
    arm: str | None = None,
    prompt: str | None = None,
    engines: Sequence[str] | None = None,
    weights: Weights = "copy",
    sign_key: Path | None = None,
    say: Say = silent,
) -> Release:
    """Register a release of `config.model` with one prompt and return it; identical content is registered once.

    `run_id` (id, prefix or `last`) takes model, prompt version and settings from `arm`, else from the evaluated arm,
    the comparison's winner or its leader. `name` defaults to the setting MODEL_NAME, else is derived from the model.
    `prompt` defaults to `question` for a chat model and to `simple` for others. `engines` are the modes of the engine
    files to include, exported if missing; None for the setting, else those that `serve` would use here. `weights` may
    be `reference` for a Hub model: only its id and commit are stored, and its files are checked when fetched.
    `sign_key` is a private key in a PEM file. `say` is called before long work.
    """
    config, settings = config or ExperimentConfig(), ReleaseConfig()
    requested = settings.engines if engines is None else engines
    if arm and not run_id:
        raise InputError(f"--arm {arm} needs a run", hint=f"--run RUN --arm {arm}")
    if sign_key is not None:
        check_key(sign_key)
    # Check the arguments before loading MLflow, which is slow.
    source = source_of_run(config, run_id, arm, prompt) if run_id else source_of_model(config, prompt)
    modes = package.select_modes(requested, config, source.snapshot, weights)
    name = name or settings.name_for(source.model)
    check_syntax(name)
    exported = [mode for mode in modes if mode != "gguf"]
    seconds = export_seconds(source.snapshot, config.cache_dir / "engines", exported)
    needed = f"; exporting its engine files takes about {seconds:.0f} s" if seconds else ""
    say(f"registering {source.snapshot.source} as {name}{needed}")

    from fledge.registry._mlflow_register import find_release, register_release

    client = connect(config.tracking)
    prompts = open_store(client)
    _check_unused(name, prompts)
    chosen = prompts.load(source.prompt or default_prompt(source.snapshot))
    form = resolve_format(chosen, source.snapshot, source.format_for(chosen, config))
    generation = resolve_generation(source.generation, chosen) if source.own else source.generation
    manifest = package.describe(
        name, source.snapshot, chosen, generation, form=form, weights=weights, evaluation=source.evaluation
    )
    release = find_release(client, manifest)
    if release is None:
        made = package.export(source.snapshot, config.cache_dir, modes, say, required=bool(requested))
        manifest = replace(manifest, engines=package.describe_engines(made))
        release = register_release(
            client, manifest, source.snapshot, chosen, made, experiment=config.experiment_name, key=sign_key
        )
    return replace(release, arm=source.arm)


def verify(target: str, *, key: Path | None = None, workspace: Workspace | None = None) -> Verification:
    """Check the files of a release in the tracking store against its manifest, and its signature by a public `key`.

    Raises `FledgeError` that names each missing, changed or unlisted file.
    """
    from fledge.releases._mlflow_releases import find, open_stored

    workspace = workspace or Workspace()
    client = connect(workspace.tracking)
    version = find(client, target)
    with open_stored(client, version) as (folder, manifest):
        signed = (folder / SIGNATURE).is_file()
        if key is not None:
            check_signature(folder, key)
    return Verification(
        manifest.name, int(version.version), manifest.digest, len(manifest.files), signed, key is not None
    )


def promote(
    name: str,
    version: int,
    *,
    alias: str = "champion",
    evidence: str | None = None,
    force: bool = False,
    reason: str = "",
    expected: int | None = None,
    workspace: Workspace | None = None,
    say: Say = silent,
) -> AliasMove:
    """Move an alias by the evidence of a run (id, prefix or `last`) or by force, and cache the release for `serve`.

    The alias of the release's prompt moves with it. With `expected` the alias must still refer to that version (0:
    none). Raises `RefusedError` if the evidence is not for this release, `ConflictError` if the alias moves meanwhile.
    """
    from fledge.registry._mlflow_evidence import check_evidence
    from fledge.registry._mlflow_moves import MoveLog, identify_process
    from fledge.releases._mlflow_releases import MODEL_TAG, fetch, find, open_stored

    check_alias(alias)
    workspace = workspace or Workspace()
    client = connect(workspace.tracking)
    releases, engines = workspace.state_dir / "releases", workspace.cache_dir / "engines"
    found = find(client, f"{name}/{version}")
    with open_stored(client, found):  # raises if the stored files are damaged
        folder = fetch(client, found, releases, known_files(engines, found.tags.get(MODEL_TAG, "")))
    release = read_cached(folder)
    if force and not reason:
        raise InputError("a forced promotion needs a reason", hint='--force --reason "..."')
    evidence, given = check_evidence(client, release, evidence, force=force)
    prompts = open_store(client)
    log = MoveLog(client, name, prompts, say)

    def make_move(moves: Sequence[AliasMove]) -> AliasMove:
        current = log.current(alias)
        last = next((move for move in reversed(moves) if move.alias == alias), None)
        if last is not None and last.after != current:
            say(f"{name}@{alias} was moved to {current or 'nothing'} outside of fledge")
        _check_expected(name, alias, current or 0, expected)
        return AliasMove(
            name=name,
            alias=alias,
            action="promote",
            changes=tuple(
                _plan_changes(prompts, log, release, last, AliasChange("model", name, current, version), alias)
            ),
            time=time.time(),
            who=_user_name(),
            owner=identify_process(),
            reason=f"{given}; {reason}" if given and reason else given or reason,
            evidence=evidence,
            forced=force,
            digest=release.digest,
        )

    move = log.add(make_move)
    release_cache.remember(releases, workspace.tracking, release_cache.ReleaseRef(name, alias, ""), folder)
    return move


def _check_expected(name: str, alias: str, current: int, expected: int | None) -> None:
    if expected is not None and current != expected:
        raise ConflictError(
            f"{name}@{alias} is {current or 'nothing'}, not {expected or 'nothing'}; nothing was moved",
            hint=f"fledge history {name}",
        )


def rollback(
    name: str,
    *,
    alias: str = "champion",
    reason: str = "",
    workspace: Workspace | None = None,
    say: Say = silent,
) -> AliasMove:
    """Revert the last promotion of an alias that was not yet reverted; the prompt's alias moves with it.

    Raises `InputError` if there is no earlier version, `ConflictError` if the alias was moved meanwhile.
    """
    from fledge.registry._mlflow_moves import MoveLog, identify_process
    from fledge.releases._mlflow_releases import DIGEST_TAG, MODEL_TAG, fetch, find

    workspace = workspace or Workspace()
    client = connect(workspace.tracking)
    prompts = open_store(client)
    log = MoveLog(client, name, prompts, say)
    releases, engines = workspace.state_dir / "releases", workspace.cache_dir / "engines"
    folders: dict[int | None, Path] = {}

    def make_move(moves: Sequence[AliasMove]) -> AliasMove:
        current = log.current(alias)
        last = find_undoable(moves, alias)
        if last is None or last.before is None:
            raise InputError(f"{name}@{alias} has no earlier version", hint=f"fledge history {name}")
        if current != last.after:
            raise ConflictError(
                f"{name}@{alias} was moved to {current or 'nothing'} outside of fledge",
                hint=f'fledge promote {name} {last.before} --alias {alias} --force --reason "..."',
            )
        target = find(client, f"{name}/{last.before}")
        folders[last.before] = fetch(client, target, releases, known_files(engines, target.tags.get(MODEL_TAG, "")))
        return AliasMove(
            name=name,
            alias=alias,
            action="rollback",
            changes=tuple(_reverse_changes(prompts, log, last)),
            time=time.time(),
            who=_user_name(),
            owner=identify_process(),
            reason=reason or f"reverts the move of {time.strftime('%Y-%m-%d %H:%M', time.localtime(last.time))}",
            digest=target.tags.get(DIGEST_TAG, ""),
            undoes=last.number,
        )

    move = log.add(make_move)
    release_cache.remember(releases, workspace.tracking, release_cache.ReleaseRef(name, alias, ""), folders[move.after])
    return move


def history(name: str, *, workspace: Workspace | None = None, say: Say = silent) -> list[AliasMove | HistoryNote]:
    """Return the alias moves of a registered model and the notes, newest first.

    An unfinished move is finished first.
    """
    from fledge.registry._mlflow_moves import MoveLog

    client = connect((workspace or Workspace()).tracking)
    log = MoveLog(client, name, open_store(client), say)
    log.current("champion")  # raises for an unknown model
    entries: list[AliasMove | HistoryNote] = [*log.finish_pending(), *log.notes()]
    return sorted(entries, key=lambda entry: entry.number, reverse=True)


def note(
    tracking_uri: str,
    name: str,
    alias: str,
    action: Literal["refused", "canary"],
    before: int | None,
    after: int,
    reason: str,
    *,
    evidence: str | None = None,
) -> None:
    """Add a note to the history of `name`: the alias stayed at `before` and did not move to `after`."""
    from fledge.registry._mlflow_moves import MoveLog

    client = connect(tracking_uri)
    log = MoveLog(client, name, open_store(client), lambda _: None)
    log.note(HistoryNote(name, alias, action, before, after, time.time(), _user_name(), reason, evidence))


def _check_unused(name: str, prompts: PromptStore) -> None:
    if name not in DEFAULTS:  # those are registered on first use
        try:
            prompts.versions(name)
        except InputError:
            return
    raise InputError(
        f"{name!r} is the name of a prompt, and MLflow requires distinct names", hint=f"--name {name}-model"
    )


def _resolve_alias(prompts: PromptStore, name: str, alias: str) -> int | None:
    """Return the version of a prompt that an alias refers to, None if there is none."""
    try:
        return next((prompt.version for prompt in prompts.versions(name) if alias in prompt.aliases), None)
    except InputError:
        return None


def _plan_changes(
    prompts: PromptStore, log: "MoveLog", release: Manifest, last: AliasMove | None, own: AliasChange, alias: str
) -> Iterator[AliasChange]:
    """Yield the changes of a promotion: drop the alias of the previous prompt, set that of the new one, then `own`."""
    for change in last.changes[:-1] if last else ():
        if change.name != release.prompt_name and change.after is not None:
            removal = AliasChange("prompt", change.name, change.after, None)
            if _can_change(prompts, log, removal, alias):
                yield removal
    before = _resolve_alias(prompts, release.prompt_name, alias)
    yield AliasChange("prompt", release.prompt_name, before, release.prompt_version)
    yield own


def _reverse_changes(prompts: PromptStore, log: "MoveLog", move: AliasMove) -> Iterator[AliasChange]:
    for change in move.changes:
        if change.kind == "model" or _can_change(prompts, log, change.reversed, move.alias):
            yield change.reversed


def _can_change(prompts: PromptStore, log: "MoveLog", change: AliasChange, alias: str) -> bool:
    """Return whether a prompt's alias is still where the last move left it, and no other model needs it."""
    if _resolve_alias(prompts, change.name, alias) != change.before:
        return False
    return change.after is not None or not log.is_shared(f"{change.name}/{change.before}", alias)


def _user_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user in a container may have no name
        return f"uid {os.getuid()}"
