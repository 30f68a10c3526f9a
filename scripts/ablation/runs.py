"""One run of the ablation: what it is, how far it is, and what it found."""

from __future__ import annotations

import copy
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

import yaml
from monai.bundle import ConfigParser

from ablation.rows import BASE, KEY, Row
from medeyes_monai.errors import ConfigError
from medeyes_monai.io.atomic import sha256_of, write_atomic
from medeyes_monai.io.literals import set_literals

__all__ = ["Bench", "Run", "State", "digest_of", "files_of", "read_sealed", "write_sealed"]

IDENTITY, RESULT, LOG, LOCK = "run.json", "result.json", "log.txt", "lock"
State = Literal["new", "begun", "finished"]
_NOT_THE_SCIENCE = (KEY, "output_dir", "bundle_root", "policy_path", "resume")
"""Ids that do not change what a run finds; of the policy its files count, not their place."""


@dataclass(frozen=True, eq=False)
class Bench:
    """What all runs of an output folder share.

    Args:
        bundle: Folder of the bundle.
        output: Folder of all results.
        settings: Ids that are set for every row.
    """

    bundle: Path
    output: Path
    settings: Mapping[str, Any]

    @property
    def train(self) -> Path:
        """The bundle's workflow."""
        return self.bundle / "configs" / "train.yaml"

    def identity(self, row: Row) -> dict[str, Any]:
        """Return what makes two runs of a seed the same: the merged configuration, the policy's files."""
        config = row.merged(self.train, self.settings)
        parser = ConfigParser(copy.deepcopy(config))
        set_literals(parser, {"bundle_root": str(self.bundle)})
        path = str(parser.get_parsed_content("policy_path"))
        kept = {name: value for name, value in config.items() if name not in (*_NOT_THE_SCIENCE, "seed")}
        return {"config": kept, "policy": files_of(Path(path))}


@dataclass(frozen=True, eq=False)
class Run:
    """A row with a seed.

    Args:
        bench: What all runs share.
        row: The row.
        seed: The seed.
        identity: :meth:`Bench.identity` of the row.
    """

    bench: Bench
    row: Row
    seed: int
    identity: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Name in messages."""
        return f"{self.row.name}, seed {self.seed}"

    @property
    def folder(self) -> Path:
        """Where it writes."""
        return self.bench.output / "runs" / self.row.name / f"seed-{self.seed}"

    @cached_property
    def sha256(self) -> str:
        """Digest of the merged configuration, the policy's files and the seed."""
        return digest_of({**self.identity, "seed": self.seed})

    def state(self) -> State:
        """Tell how far it is; nothing is changed.

        Raises:
            ConfigError: If the folder holds something else, another version of this run, or a damaged result.
        """
        if not self.folder.is_dir() or not [p for p in self.folder.iterdir() if p.name != LOCK]:
            return "new"
        if not (self.folder / IDENTITY).is_file():
            raise ConfigError(
                f"{self.folder} holds files that no run of this program made; move them away, or use "
                "another --output"
            )
        begun = read_sealed(self.folder / IDENTITY)
        if begun["sha256"] != self.sha256:
            changed = ", ".join(_changes(begun["identity"], dict(self.identity)))
            raise ConfigError(
                f"{self.folder} was made with another version of the configuration ({changed}); "
                "use another --output, or move the folder away to run it again"
            )
        if not (self.folder / RESULT).exists():
            return "begun"
        read_sealed(self.folder / RESULT)
        return "finished"

    def begin(self) -> None:
        """Make the folder and say what it is for."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / IDENTITY).exists():
            write_sealed(self.folder / IDENTITY, {"sha256": self.sha256, "identity": dict(self.identity)})

    def command(self) -> list[str]:
        """Return the command that runs it, or goes on with it."""
        settings = {**self.row.settings, **self.bench.settings}
        settings |= {"seed": self.seed}
        files = (self.row.file.with_name(BASE), self.row.file)
        return [
            *(sys.executable, "-m", "medeyes_monai", "train", "--bundle", str(self.bench.bundle)),
            *(word for file in files for word in ("--config", str(file))),
            *(word for item in settings.items() for word in ("--set", _as_setting(*item))),
            *("--output", str(self.folder)),
            *(["--resume"] if self.row.resumable else []),
        ]

    def result(self) -> dict[str, Any]:
        """Return what a finished run found."""
        return read_sealed(self.folder / RESULT)


def write_sealed(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file, whole or not at all, with a digest of what is in it."""
    sealed = {"digest": digest_of(content), "content": content}
    write_atomic(path, (json.dumps(sealed, indent=1) + "\n").encode())


def read_sealed(path: Path) -> dict[str, Any]:
    """Read a file of :func:`write_sealed`.

    Raises:
        ConfigError: If it is not what was written.
    """
    try:
        sealed = json.loads(path.read_text("utf-8"))
        if sealed["digest"] == digest_of(sealed["content"]):
            return dict(sealed["content"])
    except (ValueError, KeyError, TypeError):
        pass
    raise ConfigError(
        f"{path} is not whole, or was changed by hand; nothing was overwritten. Delete {path.parent} to run "
        "it again, or that file alone to have it written again from what the run left"
    )


def digest_of(content: Any) -> str:
    """Return the SHA-256 of plain values, whatever the order of keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


@cache
def files_of(policy: Path) -> dict[str, str]:
    """Return the digest of each file of a checkpoint, or the name of one that is not on this machine."""
    if not policy.is_dir():
        return {"name": str(policy)}
    return {p.name: sha256_of(p) for p in sorted(policy.iterdir()) if p.is_file()}


def _as_setting(key: str, value: Any) -> str:
    if isinstance(value, str) and value.startswith(("@", "$", "%")):
        return f"{key}={value}"
    return f"{key}={yaml.safe_dump(value, default_flow_style=True, width=10**6).splitlines()[0]}"


def _changes(before: Any, after: Any, where: str = "") -> Iterator[str]:
    """Name what differs between two identities, as ids."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted({*before, *after}):
            if before.get(key) != after.get(key):
                place = f"{where}::{key}" if where else str(key)
                yield from _changes(before.get(key), after.get(key), place)
    else:
        yield f"{where.removeprefix('config::')} was {_short(before)}, is {_short(after)}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
