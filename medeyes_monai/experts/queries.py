"""What an expert is asked in place of the question: templates for scans and drills."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from medeyes_monai.errors import ConfigError
from medeyes_monai.scenes import Scene

__all__ = ["Queries", "QueryRule", "QueryTemplates"]

PLACEHOLDERS = ("question", "modality")
_PLACE = re.compile(r"\{(\w*)\}")


class Queries(NamedTuple):
    """What an expert is asked about one image.

    Args:
        scan: Of the whole image.
        drill: Of one region.
    """

    scan: str
    drill: str


@dataclass(frozen=True, slots=True)
class QueryRule:
    """Templates for some of the questions.

    Args:
        scan: Template of a scan; None for that of :class:`QueryTemplates`.
        drill: Template of a drill; None likewise.
        words: The rule is for questions that hold one of these words, whole and in any case; empty for all.
        modality: The rule is for images of this modality, in any case; None for all.

    Raises:
        ConfigError: If a template holds an unknown placeholder, or the rule has no template.
    """

    scan: str | None = None
    drill: str | None = None
    words: Sequence[str] = ()
    modality: str | None = None

    def __post_init__(self) -> None:
        """Check the templates."""
        if self.scan is None and self.drill is None:
            raise ConfigError("a rule for queries has a template for scans, for drills, or both")
        for template in (self.scan, self.drill):
            _check(template)

    def fits(self, question: str, modality: str) -> bool:
        """Tell whether the rule is for a question about an image of a modality."""
        if self.modality is not None and self.modality.casefold() != modality.casefold():
            return False
        pattern = "|".join(map(re.escape, self.words))
        return (
            not self.words or re.search(rf"(?<!\w)(?:{pattern})(?!\w)", question, re.IGNORECASE) is not None
        )


@dataclass(frozen=True, slots=True)
class QueryTemplates:
    """Turns the question into what an expert is asked when it scans and when it drills.

    In a template ``{question}`` stands for the question and ``{modality}`` for what kind of image it is.
    Nothing else is replaced, and what is put in is not read again, so a question may hold braces.

    The answer is still read from the question itself. An expert that reads the question too, such as an
    ``AnnotationExpert`` with a reader, is asked it as it is.

    Args:
        scan: Template of a scan.
        drill: Template of a drill.
        modality: What the images are, in words that the expert knows, such as ``chest radiograph``. A scene
            with an attribute ``modality`` says it for itself.
        rules: Templates for some questions or modalities; the first rule that fits is taken.

    Raises:
        ConfigError: If a template holds an unknown placeholder.

    Example:
        >>> from types import SimpleNamespace
        >>> nodules = QueryRule(scan="lung nodule. mass.", words=("nodule", "mass"))
        >>> templates = QueryTemplates(scan="Locate all abnormal regions of this {modality}.",
        ...     drill="{question} Judge by this region alone.", modality="radiograph", rules=(nodules,))
        >>> templates.fill("Is there a mass?", SimpleNamespace())
        Queries(scan='lung nodule. mass.', drill='Is there a mass? Judge by this region alone.')
        >>> QueryTemplates().fill("Is {modality} a word?", SimpleNamespace()).scan
        'Is {modality} a word?'
    """

    scan: str = "{question}"
    drill: str = "{question}"
    modality: str = ""
    rules: Sequence[QueryRule] = ()

    def __post_init__(self) -> None:
        """Check the templates."""
        _check(self.scan)
        _check(self.drill)

    def fill(self, question: str, scene: Scene) -> Queries:
        """Return what the expert is asked.

        Args:
            question: The question, in words.
            scene: The image; its ``modality``, if it has one, goes before that of the templates.
        """
        modality = str(getattr(scene, "modality", None) or self.modality)
        rule = next((rule for rule in self.rules if rule.fits(question, modality)), None)
        scan = self.scan if rule is None or rule.scan is None else rule.scan
        drill = self.drill if rule is None or rule.drill is None else rule.drill
        values = {"question": question, "modality": modality}
        return Queries(_filled(scan, values), _filled(drill, values))


def _check(template: str | None) -> None:
    for name in _PLACE.findall(template or ""):
        if name not in PLACEHOLDERS:
            known = " and ".join(f"{{{word}}}" for word in PLACEHOLDERS)
            raise ConfigError(f"a query knows {known}, got {{{name}}} in {template!r}")


def _filled(template: str, values: dict[str, str]) -> str:
    return _PLACE.sub(lambda place: values[place[1]], template)
