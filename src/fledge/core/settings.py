"""Settings: every option is a field of a frozen dataclass; flags, environment names and file keys derive from it.

Precedence: flag, environment, `.env`, `fledge.toml` (or `[tool.fledge]` in `pyproject.toml`), user file, default.
"""

import functools
import inspect
import os
import tomllib
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, ParamSpec, TypeVar

from dotenv import dotenv_values
from pydantic import TypeAdapter, ValidationError

from fledge.core.errors import InputError

T = TypeVar("T")
P = ParamSpec("P")
OTHER_VARIABLES = ("FLEDGE_API_KEY", "FLEDGE_WEBHOOK_SECRET", "FLEDGE_INSTALL_", "FLEDGE_TEST_", "FLEDGE_SOAK_")
ENCODING = "utf-8-sig"  # some editors write a byte order mark


@dataclass(frozen=True)
class Option:
    """One setting. `env` is empty if only a file or Python can set it; `group` is its heading in help, empty for common
    settings."""

    name: str
    type: Any
    default: Any
    help: str
    env: str
    flag: str
    strip: bool = True
    group: str = ""

    @property
    def is_flag(self) -> bool:
        return bool(self.env)

    @property
    def is_list(self) -> bool:
        return typing.get_origin(self.type) is tuple

    @property
    def base_type(self) -> Any:
        """Return the type without `| None`."""
        if isinstance(self.type, types.UnionType):
            return next(kind for kind in typing.get_args(self.type) if kind is not type(None))
        return self.type


def option(
    default: Any, text: str, *, env: str = "", flag: bool | str = True, strip: bool = True, group: str | None = None
) -> Any:
    """Return a dataclass field that is a setting with the help `text`.

    `env` replaces the derived `FLEDGE_<NAME>`, `flag` the derived `--name`, and `group` the `GROUP` of the class. With
    `flag` false only a file or Python can set it. Without `strip` white space in the parts of a list is kept.
    """
    return field(default=default, metadata={"help": text, "env": env, "flag": flag, "strip": strip, "group": group})


def options(cls: type) -> Iterator[Option]:
    """Yield the settings of a dataclass, including those of nested dataclasses."""
    hints = typing.get_type_hints(cls)
    for item in fields(cls):
        kind = hints[item.name]
        if is_dataclass(kind) and isinstance(kind, type):
            yield from options(kind)
        elif "help" in item.metadata:
            default = None if item.default is MISSING else item.default
            env = item.metadata["env"] or (f"FLEDGE_{item.name.upper()}" if item.metadata["flag"] else "")
            flag = item.metadata["flag"] if isinstance(item.metadata["flag"], str) else item.name.replace("_", "-")
            group = item.metadata["group"]
            yield Option(
                name=item.name,
                type=kind,
                default=default,
                help=item.metadata["help"],
                env=env,
                flag=f"--{flag}",
                strip=item.metadata["strip"],
                group=_declared_group(cls, item.name) if group is None else group,
            )


def _declared_group(cls: type, name: str) -> str:
    """Return the `GROUP` of the class that declares a field."""
    declaring = next(kind for kind in cls.__mro__ if name in vars(kind).get("__annotations__", ()))
    return str(vars(declaring).get("GROUP", ""))


def flat(settings: Any) -> Iterator[tuple[str, Any]]:
    """Yield names and values of settings in the order of `options`."""
    for item in fields(settings):
        value = getattr(settings, item.name)
        if is_dataclass(value):
            yield from flat(value)
        else:
            yield item.name, value


def out_of_range(settings: Any, *bounds: tuple[str, float, float]) -> list[str]:
    """Return an error for each name whose value is not between low and high."""
    found = [(name, getattr(settings, name), low, high) for name, low, high in bounds]
    return [
        f"{name} must be from {low:g} to {high:g}, not {value:g}"
        for name, value, low, high in found
        if not low <= value <= high
    ]


@dataclass(frozen=True)
class Resolved(Generic[T]):
    """Settings, and the origin of each value by name."""

    value: T
    origins: Mapping[str, str]


def load(
    cls: type[T],
    flags: Mapping[str, Any] | None = None,
    *,
    file: tuple[str, Mapping[str, Any]] | None = None,
    folder: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> Resolved[T]:
    """Load the settings `cls` from all sources; `file` is the name and content of a settings file for this run.

    Raises `InputError` that names all invalid values, or the unknown settings in `file`.
    """
    folder = folder or Path.cwd()
    environ = os.environ if environ is None else environ
    known = list(options(cls))
    path, content = file or ("", {})
    unknown = sorted(set(content) - {item.name for item in known}, key=str)
    if unknown:
        raise InputError(f"{path}: unknown setting {', '.join(map(repr, unknown))}", hint="fledge config show")
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for origin, source in _sources(known, flags or {}, (path, content), folder, environ):
        for name, value in source.items():
            if name not in values and value is not None:
                values[name] = value
                origins[name] = origin
    for item in known:
        if item.is_list and isinstance(values.get(item.name), str):
            parts = values[item.name].split(",")
            values[item.name] = tuple(filter(None, map(str.strip, parts) if item.strip else parts))
        origins.setdefault(item.name, "default")
    return Resolved(_validate(cls, values, origins), origins)


@functools.cache
def _validator(cls: Any) -> TypeAdapter[Any]:
    return TypeAdapter(cls)


def _validate(cls: type[T], values: dict[str, Any], origins: Mapping[str, str]) -> T:
    lines: list[str] = []
    kind: Any = cls
    while True:
        try:
            value: T = _validator(kind).validate_python(_nest(cls, values))
            break
        except ValidationError as error:
            lines += [_explain(issue, origins) for issue in error.errors()]
            # Validate again without the invalid values, to report all errors.
            wrong = {
                name for issue in error.errors() for name in _settings_of_location(cls, issue["loc"])
            } & values.keys()
            values = {name: kept for name, kept in values.items() if name not in wrong}
            if not wrong:
                break
    if lines:
        raise InputError("\n".join(lines), hint="correct these values where they are set")
    return value


def _settings_of_location(cls: type, location: tuple[int | str, ...]) -> set[str]:
    """Return the settings at the location of an error: all those of a nested dataclass if it is the error."""
    hints = typing.get_type_hints(cls)
    names = {str(part) for part in location}
    if len(location) == 1 and is_dataclass(kind := hints.get(str(location[0]))) and isinstance(kind, type):
        names |= {item.name for item in options(kind)}
    return names


def _sources(
    known: list[Option],
    flags: Mapping[str, Any],
    file: tuple[str, Mapping[str, Any]],
    folder: Path,
    environ: Mapping[str, str],
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield "flag", dict(flags)
    yield "environment", {item.name: environ[item.env] for item in known if item.is_flag and environ.get(item.env)}
    dotenv = _dotenv(folder)
    yield ".env", {item.name: dotenv[item.env] for item in known if item.is_flag and dotenv.get(item.env)}
    yield file
    names = {item.name for item in known}
    for path, content in _files(folder, environ):
        yield str(path), {name: value for name, value in content.items() if name in names}


def _files(folder: Path, environ: Mapping[str, str]) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    user = Path(environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "fledge" / "config.toml"
    for path, table in ((folder / "fledge.toml", ()), (folder / "pyproject.toml", ("tool", "fledge")), (user, ())):
        content = _read_toml(path)
        for key in table:
            content = content.get(key, {})
        yield path, content


def unknown_keys(*classes: type) -> list[tuple[str, str]]:
    """Return the source and name of each key in settings files and each variable FLEDGE_... that is not a setting of
    `classes`."""
    known = [item for cls in classes for item in options(cls)]
    names, variables = {item.name for item in known}, {item.env for item in known}
    found = [
        (str(path), key) for path, content in _files(Path.cwd(), os.environ) for key in content if key not in names
    ]
    for place, environ in (("environment", os.environ), (".env", _dotenv(Path.cwd()))):
        found += [
            (place, key)
            for key in environ
            if key.startswith("FLEDGE_") and not key.startswith(OTHER_VARIABLES) and key not in variables
        ]
    return found


def _dotenv(folder: Path) -> Mapping[str, str | None]:
    path = folder / ".env"
    try:
        return dotenv_values(path, encoding=ENCODING) if path.is_file() else {}
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8", hint=f"save {path} as UTF-8") from None


def _read_toml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return tomllib.loads(path.read_text(encoding=ENCODING))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: {error}", hint=f"fix or remove {path}") from None


def _nest(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    result: dict[str, Any] = {}
    for item in fields(cls):
        kind = hints[item.name]
        if is_dataclass(kind) and isinstance(kind, type):
            result[item.name] = _nest(kind, values)
        elif item.name in values:
            result[item.name] = values[item.name]
    return result


def _explain(issue: Any, origins: Mapping[str, str]) -> str:
    name = next((str(part) for part in reversed(issue["loc"]) if isinstance(part, str)), "")
    reason = issue["msg"].removeprefix("Value error, ")
    if not name:
        return str(reason)
    return f"{name.replace('_', '-')} = {issue['input']!r} ({origins.get(name, 'given')}): {reason}"


def user_cache() -> Path:
    """Return fledge's folder in the user's cache (XDG)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fledge"


class FromSources(type):
    """Metaclass of settings: an instance loads the fields it is not given from all sources."""

    def __call__(cls, *args: Any, **given: Any) -> Any:
        kind: Any = cls
        names = [item.name for item in fields(kind)]
        values = {**dict(zip(names, args, strict=False)), **given}
        if len(args) > len(names) or len(values) < len(args) + len(given) or not values.keys() <= set(names):
            return super().__call__(*args, **given)  # raises the TypeError
        if len(values) == len(names):
            return super().__call__(**values)
        known = {item.name for item in options(cls)}
        for name, kind_of_part in typing.get_type_hints(cls).items():
            nested = is_dataclass(kind_of_part) and isinstance(kind_of_part, type)
            if nested and name in values and not isinstance(values[name], kind_of_part):
                expected = kind_of_part.__name__
                raise InputError(
                    f"{name} must be a {expected}, not {values[name]!r}", hint=f"{name}=fledge.{expected}(...)"
                )
        found = cls.load({name: values.pop(name) for name in known & values.keys()})
        if not values:
            return found
        # Fields that `load` derives from its sources do not apply to the given values.
        derived = {
            item.name: item.default for item in fields(kind) if not item.metadata and item.default is not MISSING
        }
        return replace(found, **{**derived, **values})

    def load(cls, flags: Mapping[str, Any]) -> Any:
        """Load an instance from all sources."""
        kind: Any = cls
        return load(kind, flags).value


@dataclass(frozen=True)
class Workspace(metaclass=FromSources):
    """The tracking store, and the folders for state and cache."""

    GROUP: ClassVar = "Storage"

    tracking_uri: str = option("", "MLflow tracking store or server", env="MLFLOW_TRACKING_URI")
    state: str = option(".fledge", "folder for outbox, pids, logs and experiments", env="FLEDGE_HOME")
    cache: str = option("", "folder for converted and exported models, shared by all projects; default ~/.cache/fledge")

    @property
    def tracking(self) -> str:
        """The tracking URI, by default a SQLite file in the working directory."""
        return self.tracking_uri or f"sqlite:///{Path.cwd() / 'mlflow.db'}"

    @property
    def state_dir(self) -> Path:
        """The state folder as an absolute path; `core.state.ensure` creates it."""
        return Path(self.state).absolute()

    @property
    def cache_dir(self) -> Path:
        """The folder of converted and exported models, which can be deleted at any time."""
        return Path(self.cache or user_cache()).absolute()


def settings_by_keyword(verb: Callable[P, T]) -> Callable[P, T]:
    """Wrap a public function that takes settings by keyword so that it refuses them as a positional argument."""
    keywords = [item.name for item in inspect.signature(verb).parameters.values() if item.kind is item.KEYWORD_ONLY]
    keyword = next((name for name in ("workspace", "config") if name in keywords), None)
    if keyword is None:
        return verb

    @functools.wraps(verb)
    def call(*args: P.args, **given: P.kwargs) -> T:
        if any(isinstance(item, Workspace) for item in args):
            name = verb.__name__
            raise InputError(f"{name} takes its settings by keyword", hint=f"fledge.{name}(..., {keyword}=...)")
        return verb(*args, **given)

    return call
