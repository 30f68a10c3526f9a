"""A frozen model of transformers and its processor: safetensors only, and no code that comes with them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from medeyes_monai.errors import ConfigError, ExpertError, MedEyesError
from medeyes_monai.io.hub import check_hub_name, is_hub_name
from medeyes_monai.trajectory import Picture

__all__ = ["DType", "Pretrained", "refusals_named"]

DType = Literal["float32", "bfloat16", "float16"]

_CHUNK = 2**20


@dataclass(frozen=True, slots=True)
class Pretrained:
    """A checkpoint, which is read only when it is asked for.

    Args:
        path: Checkpoint directory or hub name.
        revision: Commit of the hub that is meant; pin one, since a name's weights may change.
        dtype: Type of the weights.
        device: Where the model runs.

    Raises:
        ConfigError: If there is no such directory, or no such type.

    Example:
        >>> Pretrained("./nowhere")
        Traceback (most recent call last):
        medeyes_monai.errors.ConfigError: ./nowhere: no such directory; give one, or a hub name 'owner/name'
    """

    path: str
    revision: str | None = None
    dtype: DType = "float32"
    device: str | torch.device = "cpu"

    def __post_init__(self) -> None:
        """Check what can be checked without reading."""
        if not Path(self.path).is_dir() and not is_hub_name(self.path):
            raise ConfigError(f"{self.path}: no such directory; give one, or a hub name 'owner/name'")
        if self.dtype not in ("float32", "bfloat16", "float16"):
            raise ConfigError(f"dtype must be float32, bfloat16 or float16, got {self.dtype!r}")

    @property
    def digest(self) -> str:
        """What tells weights apart: the content of a directory's files, a hub name with its revision."""
        content = hashlib.blake2b(f"{self.dtype}".encode(), digest_size=16)
        folder = Path(self.path)
        if not folder.is_dir():
            content.update(f"{self.path}@{self.revision}".encode())
            return content.hexdigest()
        for file in sorted(f for f in folder.iterdir() if f.suffix in (".safetensors", ".json", ".txt")):
            content.update(file.name.encode())
            with file.open("rb") as stream:
                while chunk := stream.read(_CHUNK):
                    content.update(chunk)
        return content.hexdigest()

    def model(self, kind: Any) -> Any:
        """Load the model, in evaluation mode.

        Args:
            kind: Class of transformers whose ``from_pretrained`` loads it.

        Raises:
            ConfigError: If it cannot be loaded.
        """
        model = self._load(kind, dtype=getattr(torch, self.dtype), use_safetensors=True)
        return model.to(self.device).eval().requires_grad_(False)

    def part(self, kind: Any) -> Any:
        """Load a processor or tokenizer.

        Args:
            kind: Class of transformers whose ``from_pretrained`` loads it.

        Raises:
            ConfigError: If it cannot be loaded.
        """
        return self._load(kind)

    def inputs(self, batch: Any) -> Any:
        """Bring what a processor returned to the model's device and, where it is floating, its type."""
        return batch.to(self.device, getattr(torch, self.dtype))

    def _load(self, kind: Any, **more: Any) -> Any:
        if is_hub_name(self.path):
            check_hub_name(self.path, self.revision)
        try:
            return kind.from_pretrained(self.path, revision=self.revision, trust_remote_code=False, **more)
        except ImportError as problem:
            first = next(line for line in str(problem).splitlines() if line.strip())
            raise ConfigError(f"{self.path}: {first}") from problem
        except Exception as problem:  # a checkpoint comes from anywhere, and may be wrong in any way
            raise ConfigError(
                f"{self.path}: cannot be loaded ({type(problem).__name__}: {problem})"
            ) from problem


@contextmanager
def refusals_named(name: str, picture: Picture) -> Iterator[None]:
    """Turn what a model raises at one picture into an error that names the expert.

    Raises:
        ExpertError: If the model cannot deal with the picture.
    """
    try:
        yield
    except MedEyesError:
        raise
    except (RuntimeError, ValueError) as problem:
        first = (str(problem).splitlines() or [type(problem).__name__])[0]
        rows, columns = picture.shape[:2]
        raise ExpertError(f"{name}: the model refused a picture of {rows} x {columns}: {first}") from problem
