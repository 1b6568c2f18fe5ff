"""What `register` returns."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Standing:
    """Of the arm that a release is made of: whether its run proves it, and by what, or why not."""

    name: str
    proven: bool
    reason: str

    def summary(self) -> str:
        return f"arm {self.name}, {'proven' if self.proven else 'unproven'}: {self.reason}"


@dataclass(frozen=True)
class Release:
    """A registered version; `new` unless the same content was registered before. `arm` is that of the run it was made
    from, where it was."""

    name: str
    version: int
    model_uri: str
    digest: str
    new: bool
    arm: Standing | None = None
