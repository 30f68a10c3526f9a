"""A trained policy as something to hand on: merged into its base, or pushed to a hub."""

from __future__ import annotations

from pathlib import Path

from medeyes_monai.errors import ConfigError
from medeyes_monai.policy import HuggingFacePolicy
from medeyes_monai.policy.adapters import Survival
from medeyes_monai.policy.settings import DType
from medeyes_monai.reports import write_card

__all__ = ["export_policy"]


def export_policy(
    path: str | Path,
    output: str | Path,
    *,
    merge: bool = False,
    dtype: DType | None = None,
    revision: str | None = None,
    push: str | None = None,
) -> Survival | None:
    """Write a policy into a directory of its own, and to a hub where that is asked for.

    Args:
        path: Directory or hub name of an adapter or a checkpoint.
        output: Directory that is written; it must not hold the policy itself.
        merge: Merge the adapter into its base: in float32, one layer after the other, without a second copy
            of the model. What is written then needs neither the base nor peft.
        dtype: Type of the merged weights; None for that of the policy.
        revision: Revision of a hub name.
        push: Name ``owner/name`` under which the directory is pushed to the hub, privately; None for nowhere.

    Returns:
        How much of the update survived the cast; None where nothing was merged.

    Raises:
        ConfigError: If there is no adapter to merge, or the hub refuses.
    """
    if Path(output).resolve() == Path(path).resolve():
        raise ConfigError(f"{output}: is the policy itself; give another directory for what is exported")
    if dtype is not None and not merge:
        raise ConfigError("dtype is the type of merged weights; ask for --merge as well")
    policy = HuggingFacePolicy(path, revision=revision)
    survival = None
    if merge:
        survival = policy.merge(dtype)
    policy.save(output)
    if survival is not None:
        write_card(output, policy, f"Not measured since it was merged: {survival}.")
    elif (Path(path) / "README.md").is_file():
        (Path(output) / "README.md").write_bytes((Path(path) / "README.md").read_bytes())
    if push is not None:
        _push(Path(output), push)
    return survival


def _push(directory: Path, name: str) -> None:
    """Upload a directory to a private repository of the hub."""
    from huggingface_hub import HfApi

    try:
        hub = HfApi()
        hub.create_repo(name, private=True, exist_ok=True)
        hub.upload_folder(repo_id=name, folder_path=directory, ignore_patterns=[".*"])
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{name}: cannot be pushed ({type(error).__name__}: {' '.join(str(error).split())[:200]}); "
            f"what was exported is in {directory}"
        ) from error
