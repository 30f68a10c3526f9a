"""What the monitors of a training had to say, in words for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from medeyes_monai.metrics.signatures import SIGNATURES, WARNING, Occurrence, occurrences

__all__ = ["warning_texts", "without_warnings"]


def warning_texts(records: Sequence[Mapping[str, float]]) -> list[str]:
    """Describe each warning of a training; say so if none of those that were watched for was seen.

    Gradient steps that were skipped because they were not finite come first.

    Args:
        records: One mapping for each step, as ``metrics.jsonl`` holds them.

    Returns:
        One text for each occurrence; nothing where no monitor wrote into the log.

    Example:
        >>> warning_texts([{"step": 1.0, "warning/interference": 0.0}])
        ['None of the failures that were watched for was seen: the two streams pull against each other.']
    """
    skipped = _skipped(records)
    watched = [
        signature.title
        for name, signature in SIGNATURES.items()
        if any(WARNING + name in record for record in records)
    ]
    if not watched:
        return skipped
    seen = [_text(occurrence) for occurrence in occurrences(records)]
    return skipped + seen or [f"None of the failures that were watched for was seen: {'; '.join(watched)}."]


def without_warnings(records: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """Return records without the marks of 0 and 1, which make no curve worth drawing."""
    return [
        {name: value for name, value in record.items() if not name.startswith(WARNING)} for record in records
    ]


def _skipped(records: Sequence[Mapping[str, float]]) -> list[str]:
    counts = {int(record["step"]): int(record.get("skipped_updates", 0)) for record in records}
    at = [step for step, count in counts.items() if count]
    if not at:
        return []
    where = f"at update {at[0]}" if len(at) == 1 else f"from update {at[0]} to {at[-1]}"
    return [f"Gradient steps that were not finite were skipped: {sum(counts.values())}, {where}."]


def _text(seen: Occurrence) -> str:
    signature = seen.signature
    updates = f"update {seen.first}" if seen.first == seen.last else f"updates {seen.first} to {seen.last}"
    end = "" if seen.over else ", not seen to end"
    return (
        f"Warning, {updates}{end}: {signature.title}. Measure at first {seen.measure:.3g} "
        f"({signature.measure}). To try: {signature.advice}."
    )
