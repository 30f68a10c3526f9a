"""Questions about images that somebody just has: one file, a folder of files, or a datalist."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medeyes_monai.data.datalist import ItemVQA, OnUnreadable, SceneFactory
from medeyes_monai.data.items import DatalistItem, item_from, read_datalist
from medeyes_monai.errors import ConfigError
from medeyes_monai.io import DEFAULT_MAX_VOXELS
from medeyes_monai.scenes import ImageScene

__all__ = ["ImageQuestions"]


class ImageQuestions(ItemVQA):
    """Questions without reference answers, for inference.

    Args:
        path: An image; a folder, of which every file that is not hidden is taken, in the order of names and
            without subfolders; or a datalist (``.json`` or ``.jsonl``), whose items bring their questions.
        question: What is asked about an image or about each file of a folder.
        options: Answers to choose from.
        section: Section of a ``.json`` datalist.
        scene: Makes a scene of an image.
        on_unreadable: Whether an unreadable image ends the run or is skipped.
        max_voxels: Largest image that is read.
        keep_scenes: Number of scenes that are kept in memory.

    Raises:
        ConfigError: If the path does not exist, a folder is empty, a datalist is wrong, or the question is
            missing.

    Example:
        >>> from PIL import Image
        >>> folder = getfixture("tmp_path")
        >>> Image.new("L", (90, 90)).save(folder / "a.png")
        >>> case = ImageQuestions(folder, "Is there an effusion?")[0]
        >>> case.question, case.answer, case.scene.key
        ('Is there an effusion?', None, 'a.png')
    """

    def __init__(
        self,
        path: str | Path,
        question: str | None = None,
        *,
        options: Sequence[str] = (),
        section: str = "training",
        scene: SceneFactory = ImageScene,
        on_unreadable: OnUnreadable = "raise",
        max_voxels: int = DEFAULT_MAX_VOXELS,
        keep_scenes: int = 16,
    ) -> None:
        """Find the files; see the class."""
        where = Path(path)
        if not where.exists():
            raise ConfigError(f"{where} does not exist; give an image, a folder of images, or a datalist")
        super().__init__(
            _items(where, question, options, section),
            where if where.is_dir() else where.parent,
            scene=scene,
            on_unreadable=on_unreadable,
            require_answers=False,
            max_voxels=max_voxels,
            keep_scenes=keep_scenes,
        )


def _items(
    where: Path, question: str | None, options: Sequence[str], section: str
) -> tuple[DatalistItem, ...]:
    if where.suffix.lower() in (".json", ".jsonl"):
        return read_datalist(where, section)
    if question is None or not question.strip():
        raise ConfigError(f"there is no question to ask about {where.name}; set one")
    files = [where] if where.is_file() else sorted(p for p in where.iterdir() if _is_shown(p))
    if not files:
        raise ConfigError(f"the folder {where} holds no files; give a folder of images")
    rows: list[dict[str, Any]] = [
        {"image": file.name, "id": file.name, "question": question, "options": list(options)}
        for file in files
    ]
    return tuple(item_from(row, number) for number, row in enumerate(rows))


def _is_shown(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".")
