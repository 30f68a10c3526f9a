"""Turns a released data set into a datalist beside its images, with what there is to know about it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from medeyes_monai.data.album import Album, check_sums
from medeyes_monai.data.cards import Found, card_of, mismatches
from medeyes_monai.data.items import item_from
from medeyes_monai.data.releases import Question, Release, is_polar
from medeyes_monai.data.texts import Record
from medeyes_monai.data.wording import names_a_side
from medeyes_monai.errors import ConfigError, GeometryError, UnreadableImageError
from medeyes_monai.geometry import Box
from medeyes_monai.io import write_atomic

__all__ = ["Prepared", "prepare"]

STATE = "prepared.json"
"""Says what a folder holds. It is written last, so that a folder without it is not whole."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What came of it.

    Args:
        folder: Where it is.
        found: What was found in each split.
        warnings: What does not agree with a whole copy.
        left_out: Rows that were left out, and why.
        resumed: Pictures that an interrupted run had already written.
        was_done: Whether all of it was there before, unchanged.
    """

    folder: Path
    found: Mapping[str, Found]
    warnings: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    resumed: int = 0
    was_done: bool = False


@dataclass(slots=True)
class _Run:
    """A run under way."""

    album: Album
    on_bad: Literal["raise", "skip"]
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    contents: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)


def prepare(
    release: Release,
    name: str,
    target: str | Path,
    *,
    on_bad: Literal["raise", "skip"] = "raise",
    quiet: bool = False,
) -> Prepared:
    """Write a release as a datalist for each split, its images, a card and checksums.

    The folder gets ``<split>.jsonl`` (read by ``PreparedVQA`` and ``DatalistVQA``), ``images/``, where there
    are such ``masks/``, ``card.md``, ``checksums.sha256`` and, last, ``prepared.json``. The same command
    again goes on after an interruption; where all is done, it compares the checksums.

    Each item's metadata say where it comes from (``source``), whether it names a side (``names_a_side``), and
    in which other splits its image, or its group, occurs as well (``in_other_splits``).

    Args:
        release: The copy.
        name: What the data set is called here; begins the names of items that have none.
        target: The folder; it is made.
        on_bad: Whether a row that cannot be used ends the run or is left out and listed.
        quiet: Whether no progress is shown.

    Raises:
        ConfigError: If the folder holds something else, the release is not in its form, or, under ``raise``,
            a row is wrong; the message names file and row.
        UnreadableImageError: Under ``raise``, if a picture is missing, truncated or damaged.
    """
    if on_bad not in ("raise", "skip"):
        raise ConfigError(f"on_bad is 'raise' or 'skip', got {on_bad!r}")
    folder = Path(target)
    identity = {"name": name, "form": release.form}
    if (done := _state(folder, identity)) is not None:
        check_sums(folder)
        found = {split: Found(**numbers) for split, numbers in done["found"].items()}
        return Prepared(folder, found, tuple(done["warnings"]), tuple(done["left_out"]), was_done=True)
    folder.mkdir(parents=True, exist_ok=True)
    run = _Run(Album(folder), on_bad)
    for split in release.splits():
        run.rows[split] = _rows(release, split, name, run, quiet)
    _mark_overlap(run)
    return _write(release, identity, run)


def _state(folder: Path, identity: Mapping[str, str]) -> dict[str, Any] | None:
    """Return what a finished folder says of itself, or None if it is new or not finished."""
    if not (folder / STATE).is_file():
        return None
    done: dict[str, Any] = json.loads((folder / STATE).read_text("utf-8"))
    if {key: done.get(key) for key in identity} != dict(identity):
        raise ConfigError(
            f"{folder} holds {done.get('name')} ({done.get('form')}), not {identity['name']} "
            f"({identity['form']}); give another folder"
        )
    return done


def _rows(release: Release, split: str, name: str, run: _Run, quiet: bool) -> list[dict[str, Any]]:
    """Return the items of a split, writing their pictures."""
    rows: list[dict[str, Any]] = []
    places: dict[str, str] = {}
    for record in _shown(release.records(split), split, quiet):
        with _row(record, run):
            if record.flaw:
                raise ConfigError(record.flaw)
            for question in release.questions(record):
                row = _item(question, record, f"{name}-{split}-{len(rows)}", run)
                if (before := places.setdefault(row["id"], record.place)) != record.place:
                    raise ConfigError(f"has the id {row['id']!r}, as {before} has")
                rows.append(row)
    return rows


def _shown(records: Iterable[Record], split: str, quiet: bool) -> Iterator[Record]:
    yield from tqdm(records, desc=split, unit=" rows", disable=quiet or None, mininterval=0.5)


@contextmanager
def _row(record: Record, run: _Run) -> Iterator[None]:
    """Name the row in what goes wrong with it, or leave the row out."""
    try:
        yield
    except (ConfigError, GeometryError, UnreadableImageError) as error:
        message = f"{record.place}: {error}"
        if run.on_bad == "raise":
            kind = UnreadableImageError if isinstance(error, UnreadableImageError) else ConfigError
            raise kind(f"{message}; on_bad=skip leaves such rows out") from error
        run.left_out.append(message)


def _item(question: Question, record: Record, name: str, run: _Run) -> dict[str, Any]:
    """Return an item of the datalist, its picture written."""
    if question.files:
        return _volume_item(question, record, name, run)
    given = dict(question.item)
    boxes = [Box.from_corners(corners) for corners in given.pop("boxes", [])]
    if boxes and len(question.pictures) > 1:
        raise ConfigError(f"has boxes on one of {len(question.pictures)} pictures, without saying which")
    picture = run.album.keep(question.pictures, question.name)
    metadata = _metadata(given, record)
    if question.mask is not None:
        mask = run.album.keep((question.mask,), question.name.replace("images/", "masks/", 1), as_is=True)
        if mask.size != picture.size:
            raise ConfigError(f"the mask has {mask.size} pixels, its picture {picture.size}")
        metadata["mask"] = mask.path
    row = {"id": given.pop("id", name), "image": picture.path, **given, "metadata": metadata}
    if boxes:
        row["boxes"] = [list(box.clip(picture.size).corners) for box in boxes]
    else:
        row.pop("labels", None)
    item_from(row, 0)
    run.contents[picture.path] = picture.content
    return row


def _volume_item(question: Question, record: Record, name: str, run: _Run) -> dict[str, Any]:
    """Return an item of the datalist about a volume, its files in place."""
    given = dict(question.item)
    kept = {
        key: run.album.keep_file(file, question.name.replace("images/", f"{key}s/", 1))
        for key, file in question.files.items()
    }
    metadata = _metadata(given, record)
    paths = {key: file.path for key, file in kept.items()}
    row = {"id": given.pop("id", name), **paths, **given, "metadata": metadata}
    item_from(row, 0)
    run.contents[paths["image"]] = kept["image"].content
    return row


def _metadata(given: dict[str, Any], record: Record) -> dict[str, Any]:
    """Take the metadata out of an item and add where it comes from and whether it names a side."""
    texts = (given["question"], given.get("answer"), *given.get("options", ()))
    return {
        **given.pop("metadata", {}),
        "source": record.place,
        "names_a_side": names_a_side(*texts),
    }


def _mark_overlap(run: _Run) -> None:
    """Say of each item in which other splits its image, by content, or its group occurs."""
    splits: dict[tuple[str, str], set[str]] = {}
    for split, rows in run.rows.items():
        for row in rows:
            for what in _what(row, run):
                splits.setdefault(what, set()).add(split)
    for split, rows in run.rows.items():
        for row in rows:
            others = set().union(*(splits[what] for what in _what(row, run))) - {split}
            row["metadata"]["in_other_splits"] = sorted(
                others.union(row["metadata"].get("in_other_splits", ()))
            )


def _what(row: Mapping[str, Any], run: _Run) -> tuple[tuple[str, str], tuple[str, str]]:
    return ("content", run.contents[row["image"]]), ("group", str(row.get("group", row["image"])))


def _write(release: Release, identity: Mapping[str, str], run: _Run) -> Prepared:
    """Write the datalists, the card and the checksums; last, that all is there."""
    folder = run.album.folder
    found = {split: _found(rows) for split, rows in run.rows.items()}
    warnings = mismatches(release.about.counts, found)
    files = []
    for split, rows in run.rows.items():
        files.append(folder / f"{split}.jsonl")
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_atomic(files[-1], text.encode())
    files.append(folder / "card.md")
    write_atomic(files[-1], card_of(release.about, release.form, found, warnings, run.left_out).encode())
    run.album.finish(*files)
    numbers = {split: found[split]._asdict() for split in found}
    state = {**identity, "found": numbers, "warnings": warnings, "left_out": run.left_out}
    write_atomic(folder / STATE, (json.dumps(state, indent=1, ensure_ascii=False) + "\n").encode())
    return Prepared(folder, found, tuple(warnings), tuple(run.left_out), run.album.resumed)


def _found(rows: list[dict[str, Any]]) -> Found:
    answers = [row["answer"] for row in rows if "answer" in row]
    return Found(
        questions=len(rows),
        images=len({row["image"] for row in rows}),
        families=dict(sorted(Counter(row["family"] for row in rows).items())),
        polar=sum(map(is_polar, answers)),
        answered=len(answers),
        boxed=sum("boxes" in row for row in rows),
        sided=sum(row["metadata"]["names_a_side"] for row in rows),
        shared=sum(bool(row["metadata"]["in_other_splits"]) for row in rows),
    )
