"""Models on the Hugging Face hub: one quick question before transformers asks for each file."""

from __future__ import annotations

import re
from pathlib import Path

from medeyes_monai.errors import ConfigError

__all__ = ["check_hub_name", "is_hub_name"]

TIMEOUT_S = 5.0


def is_hub_name(path: str) -> bool:
    """Tell whether a path can only be a name ``owner/name`` on the hub.

    Example:
        >>> is_hub_name("Qwen/Qwen3-VL-2B-Instruct"), is_hub_name("./policy"), is_hub_name("a/b/c")
        (True, False, False)
    """
    return re.fullmatch(r"\w[\w.-]*/[\w.-]+", path, re.ASCII) is not None and not Path(path).exists()


def check_hub_name(name: str, revision: str | None = None) -> None:
    """Ask the hub whether a model may be downloaded.

    It is asked once. Transformers tries each file six times, half a minute without a network. With
    ``HF_HUB_OFFLINE=1`` nothing is asked, and what was downloaded before is taken.

    Args:
        name: ``owner/name``.
        revision: Commit, branch or tag.

    Raises:
        ConfigError: If there is no such model, it is gated, or the hub cannot be reached.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.constants import HF_HUB_OFFLINE
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, RepositoryNotFoundError

    if HF_HUB_OFFLINE:
        return
    try:
        get_hf_file_metadata(hf_hub_url(name, "config.json", revision=revision), timeout=TIMEOUT_S)
    except EntryNotFoundError:
        return  # a model without this file, of which transformers knows more
    except GatedRepoError as error:
        raise ConfigError(
            f"{name} is gated: accept its terms on its page of the hub, then log in with 'hf auth login'"
        ) from error
    except RepositoryNotFoundError as error:
        raise ConfigError(
            f"{name} is no folder here and no public model of the hub; check the name, or log in with "
            "'hf auth login' if it is private"
        ) from error
    except Exception as error:  # of the HTTP library, which changed twice
        raise ConfigError(
            f"{name} is no folder here, and the hub did not answer ({type(error).__name__}); give a "
            "directory with a checkpoint, or set HF_HUB_OFFLINE=1 to take what was downloaded before"
        ) from error
