"""Texts and paths that a user types, handed to a configuration without its parser reading them.

MONAI's parser takes a value for a reference, an expression or a macro by its first character. A question such
as "$100?" must not become code, so the parser is given a fixed expression that looks the value up by its id.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from monai.bundle import ConfigParser

from medeyes_monai.errors import ConfigError

__all__ = ["check_words", "is_text", "literal_settings", "set_literals"]

_GLOBAL = "_medeyes_literals"


def is_text(text: str) -> bool:
    r"""Tell whether text can be written as UTF-8 and holds no null character.

    Example:
        >>> is_text("Ist 1° µm zu sehen?"), is_text("\ud800"), is_text("\0")
        (True, False, False)
    """
    return "\0" not in text and not any("\ud800" <= letter <= "\udfff" for letter in text)


def check_words(words: Sequence[str]) -> None:
    r"""Refuse words of a command line that no text or path can be made of.

    Raises:
        ConfigError: If a word holds a null character, or bytes that are not UTF-8.

    Example:
        >>> check_words(["infer", "--question", "is it \ud800?"])
        Traceback (most recent call last):
        medeyes_monai.errors.ConfigError: word 3 of the command, 'is it \ud800?', is not UTF-8 text
    """
    for number, word in enumerate(words, start=1):
        if not is_text(word):
            shown = ascii(word if len(word) <= 60 else f"{word[:57]}...")
            raise ConfigError(f"word {number} of the command, {shown}, is not UTF-8 text")


def literal_settings(literals: Mapping[str, str]) -> dict[str, Any]:
    """Return what stands in a configuration for literals, by id; :func:`set_literals` gives it the values.

    Example:
        >>> literal_settings({"question": "$100?"})
        {'question': "$_medeyes_literals['question']"}
    """
    return {name: f"${_GLOBAL}[{name!r}]" for name in literals}


def set_literals(parser: ConfigParser, literals: Mapping[str, str]) -> None:
    """Set ids to texts that the parser hands on as they are, to references and expressions too.

    Args:
        parser: A configuration, before anything of it is built. Parsing it again keeps the texts.
        literals: Texts by id. The ids come from the program, the texts from whoever uses it.

    Raises:
        ConfigError: If a text is empty.

    Example:
        >>> parser = ConfigParser({"output_dir": None, "log": "$@output_dir + '/log'"})
        >>> set_literals(parser, {"output_dir": "$HOME/@seed"})
        >>> parser.get_parsed_content("log")
        '$HOME/@seed/log'
    """
    for name, text in literals.items():
        if not text.strip():
            raise ConfigError(f"{name} is empty; give one, or leave the option out")
    parser.globals[_GLOBAL] = dict(literals)
    parser.update(literal_settings(literals))
