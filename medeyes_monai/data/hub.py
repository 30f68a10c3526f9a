"""Releases on the Hugging Face hub, where there is a network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medeyes_monai.errors import ConfigError

__all__ = ["fetched", "hub_revision"]


def hub_revision(source: str | Path) -> tuple[bool, str | None]:
    """Tell whether a source is the hub, and of which revision.

    Example:
        >>> hub_revision("hub"), hub_revision("hub@1a2b3c"), hub_revision("data/slake")
        ((True, None), (True, '1a2b3c'), (False, None))
    """
    word, _, revision = str(source).partition("@")
    return word == "hub", (revision or None) if word == "hub" else None


def fetched(source: str | Path, repository: str, patterns: Sequence[str]) -> Path:
    """Return the folder of a release: the source itself, or a snapshot in the hub's cache.

    Args:
        source: A folder, or ``hub`` or ``hub@<revision>``.
        repository: Owner and name of the data set on the hub.
        patterns: Files that are wanted.

    Raises:
        ConfigError: If the hub cannot be reached.
    """
    is_hub, revision = hub_revision(source)
    if not is_hub:
        return Path(source)
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                repository, repo_type="dataset", revision=revision, allow_patterns=list(patterns)
            )
        )
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{repository} cannot be had from the hub: {error}; without a network, give the folder of a "
            "local copy"
        ) from error
