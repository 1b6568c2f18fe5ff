"""Results of `register`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Standing:
    """Whether the run of a released arm is evidence for it, and why or why not."""

    name: str
    proven: bool
    reason: str

    def summary(self) -> str:
        return f"arm {self.name}, {'proven' if self.proven else 'unproven'}: {self.reason}"


@dataclass(frozen=True)
class Release:
    """A registered version; `new` is false if the same content was registered before. `arm` is set for a release from
    a run."""

    name: str
    version: int
    model_uri: str
    digest: str
    new: bool
    arm: Standing | None = None
