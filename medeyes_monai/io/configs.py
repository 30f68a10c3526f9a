"""Checks a bundle's configuration before anything is built: every key is known, every component exists."""

from __future__ import annotations

import ast
import difflib
import inspect
import json
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from pydoc import ErrorDuringImport, locate
from typing import Any

import yaml
from monai.bundle import ConfigComponent, ConfigExpression, ConfigParser, ReferenceResolver
from monai.bundle.utils import merge_kv

from medeyes_monai.errors import ConfigError

__all__ = ["check_config", "find_overlay", "read_config", "read_setting", "refers_to"]

_NOT_ARGUMENTS = ConfigComponent.non_arg_keys
_CONFIGURATION = ("@", "$", "%")
"""What a text begins with that MONAI takes for a reference, an expression or a macro."""
_MOST_REFERENCES = 16


def check_config(base: str | Path, overlays: Sequence[str | Path] = (), /, **settings: Any) -> None:
    r"""Check a bundle's configuration with what is laid over it, as MONAI will merge it.

    The rule: a key of an overlay or a setting names something that is there, ``a::b`` going one level down.
    A component takes the arguments of its ``_target_``, whether the base gives them or not; what is inside an
    argument is its own affair. New ids at the top begin with ``_``. All that is wrong is said at once.

    Args:
        base: The bundle's configuration.
        overlays: Further files, later ones over earlier ones.
        settings: Values by id, over all files.

    Raises:
        ConfigError: If a file is missing or not readable, a key is unknown, a component or one of its
            arguments does not exist, or a reference points nowhere.

    Example:
        >>> file = getfixture("tmp_path") / "base.yaml"
        >>> _ = file.write_text("rate: 0.1\noptimizer: {_target_: torch.optim.SGD, params: [], lr: '@rate'}")
        >>> check_config(file, **{"optimizer::momentum": 0.9})
        >>> check_config(file, rat=0.2)
        Traceback (most recent call last):
        medeyes_monai.errors.ConfigError: settings: unknown key 'rat'; did you mean 'rate'?
    """
    parser = ConfigParser(read_config(base))
    problems: list[str] = []
    for file in map(Path, overlays):
        problems += _lay_over(parser, read_config(file), file.name)
    problems += _lay_over(parser, settings, "settings")
    if not problems:
        problems = [*_wrong_components(parser.get()), *_wrong_references(parser)]
    if problems:
        raise ConfigError("; ".join(problems))


_EXPONENT = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?[eE][+-]?[0-9]+")


def read_setting(text: str) -> tuple[str, Any]:
    """Read ``key=value``; the value is YAML, or a reference or expression as in a file.

    Raises:
        ConfigError: If there is no key, or the value cannot be read.

    Example:
        >>> read_setting("optimizer::betas=[0.9, 0.98]"), read_setting("memo::directory=$@output_dir + '/m'")
        (('optimizer::betas', [0.9, 0.98]), ('memo::directory', "$@output_dir + '/m'"))
        >>> read_setting("learning_rate=3e-4")
        ('learning_rate', 0.0003)
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"a setting is key=value, got {text!r}")
    key = ReferenceResolver.normalize_id(key.strip())
    if value.startswith(_CONFIGURATION):
        return key, value
    if _EXPONENT.fullmatch(value):  # YAML 1.1 takes 1e-4 for a word
        return key, float(value)
    try:
        return key, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"the value of {key} cannot be read: {_first_line(error)}") from error


def find_overlay(name: str, folder: str | Path) -> Path:
    """Return the file that a name stands for: one of a folder, or a file that is given as such.

    Args:
        name: Name of a file of the folder without its ending, or the path of a ``.yaml`` or ``.json`` file.
        folder: Where named files lie.

    Raises:
        ConfigError: If there is no such file; the message lists the names.

    Example:
        >>> folder = getfixture("tmp_path")
        >>> _ = (folder / "classical.yaml").write_text("seed: 1")
        >>> find_overlay("classical", folder).name
        'classical.yaml'
        >>> find_overlay("clasical", folder)
        Traceback (most recent call last):
        medeyes_monai.errors.ConfigError: 'clasical' is unknown; did you mean 'classical'? known: classical
    """
    if Path(name).suffix in (".yaml", ".yml", ".json"):
        return Path(name)
    known = {file.stem: file for file in sorted(Path(folder).glob("*.yaml"))}
    if name in known:
        return known[name]
    if not known:
        raise ConfigError(
            f"{name!r} is looked up in {folder}, which holds no .yaml files; give a file's path"
        )
    near = _suggest(name, known)
    way_out = f"did you mean {near!r}? " if near else ""
    raise ConfigError(f"{name!r} is unknown; {way_out}known: {', '.join(known)}")


def read_config(path: str | Path) -> dict[str, Any]:
    """Return what a configuration file holds, nothing of it built.

    Raises:
        ConfigError: If it is missing, cannot be read, or maps no ids to values.
    """
    file = Path(path)
    if not file.is_file():
        raise ConfigError(f"configuration {file} does not exist; give the path of a .yaml or .json file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # MONAI warns of a key that is given twice
            content = ConfigParser.load_config_file(file)
    except (yaml.YAMLError, ValueError, UserWarning) as error:
        raise ConfigError(f"configuration {file.name} cannot be read: {_first_line(error)}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"configuration {file.name} must map ids to values, got {type(content).__name__}")
    return content


def _lay_over(parser: ConfigParser, changes: Mapping[str, Any], source: str) -> list[str]:
    """Merge changes into a configuration; return what is wrong with their keys."""
    problems = []
    for key, value in changes.items():
        where = ReferenceResolver.normalize_id(key.removeprefix("+"))
        problem = _wrong_key(parser.get(), where) or _wrong_value(parser, where, value)
        if problem is not None:
            problems.append(f"{source}: {problem}")
        else:
            merge_kv(parser, key, value)
    return problems


def _wrong_key(config: Any, key: str) -> str | None:
    """Return what is wrong with a key, or None."""
    parts, node, within = key.split("::"), config, False
    for depth, part in enumerate(parts):
        here, last = "::".join(parts[:depth]), depth == len(parts) - 1
        if isinstance(node, list) and part.isdecimal() and int(part) < len(node):
            node = node[int(part)]
        elif not isinstance(node, dict):
            return f"{key!r} cannot be set, because {here} is {node!r}; set {here} as a whole"
        elif part in node:
            within, node = within or "_target_" in node, node[part]
        elif last and (within or "_target_" in node or (depth == 0 and part.startswith("_"))):
            return None
        else:
            near = _suggest(part, node)
            known = ", ".join(str(name) for name in node)
            return f"unknown key {key!r}; " + (
                f"did you mean {_join(here, near)!r}?" if near else f"known here are {known}"
            )
    return None


def _wrong_value(parser: ConfigParser, key: str, value: Any) -> str | None:
    """Return what is wrong with a value that takes the place of a number, or None."""
    known, followed = parser.get(key), 0
    while isinstance(known, str) and known.startswith("@") and followed < _MOST_REFERENCES:
        known, followed = parser.get(known[1:]), followed + 1
    if not isinstance(known, (bool, int, float)) or not isinstance(value, (str, list)):
        return None
    if isinstance(value, str) and value.startswith(_CONFIGURATION):
        return None
    wanted = "true or false" if isinstance(known, bool) else "a number"
    return f"{key} is {wanted}, such as {json.dumps(known)}; got {value!r}"


def _wrong_components(config: Any) -> Iterator[str]:
    for where, node in _components(config, ""):
        target = node["_target_"]
        if not isinstance(target, str) or target.startswith(("$", "@")) or "." not in target:
            continue  # an expression, or a short name that MONAI looks up among its own
        try:
            component = locate(target)
        except ErrorDuringImport as error:
            yield f"{where}::_target_ {target!r} cannot be imported: {_first_line(error)}"
            continue
        if component is None:
            yield f"{where}::_target_ names {target!r}, which does not exist; give a full path to import"
        else:
            yield from _wrong_arguments(where, node, component)


def _wrong_arguments(where: str, node: Mapping[str, Any], component: Any) -> Iterator[str]:
    try:
        parameters = inspect.signature(component).parameters.values()
    except (TypeError, ValueError):
        return  # a builtin that does not tell
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    known = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    for name in node:
        if name not in known and name not in _NOT_ARGUMENTS:
            near = _suggest(name, known)
            way_out = f"did you mean {near!r}?" if near else f"it takes {', '.join(known)}"
            yield f"unknown key {_join(where, name)!r}: {node['_target_']} has no such argument; {way_out}"
    if node.get("_mode_", "default") == "default":
        for p in parameters:
            if p.default is p.empty and p.kind is not p.VAR_POSITIONAL and p.name not in node:
                yield f"{where} lacks {p.name!r}, which {node['_target_']} needs"


def _wrong_references(parser: ConfigParser) -> Iterator[str]:
    for where, text in _texts(parser.get(), ""):
        copied = [text[1:]] if re.fullmatch(r"%\w+(::\w+)*", text) else []
        if problem := _wrong_expression(text):
            yield f"{where} {problem}"
            continue
        for target in [*ReferenceResolver.match_refs_pattern(text), *copied]:
            if target and not target.startswith("::") and target not in parser:
                near = _suggest(target, (name for name, _ in _nodes(parser.get(), "")))
                way_out = f"did you mean '@{near}'?" if near else "define it, or refer to an id that is there"
                yield f"{where} refers to '@{target}', which is not defined; {way_out}"


def _wrong_expression(text: str) -> str | None:
    """Return why a text is no expression that Python can read, or None."""
    if not ConfigExpression.is_expression(text):
        return None
    try:
        ast.parse(ReferenceResolver.id_matcher.sub("_", ReferenceResolver.normalize_id(text[1:])))
    except (SyntaxError, ValueError) as error:
        return f"begins with $ and cannot be read as an expression: {error}; put $ nowhere but before one"
    return None


def refers_to(parser: ConfigParser, name: str) -> bool:
    """Tell whether anything in a configuration refers to an id.

    Example:
        >>> parser = ConfigParser({"folder": "a", "file": "$@folder + '/b'"})
        >>> refers_to(parser, "folder"), refers_to(parser, "file")
        (True, False)
    """
    return any(name in ReferenceResolver.match_refs_pattern(text) for _, text in _texts(parser.get(), ""))


def _components(config: Any, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, node in _nodes(config, where):
        if isinstance(node, dict) and "_target_" in node:
            yield name, node


def _texts(config: Any, where: str) -> Iterator[tuple[str, str]]:
    for name, node in _nodes(config, where):
        if isinstance(node, str) and not name.startswith("_meta_"):
            yield name, node


def _nodes(config: Any, where: str) -> Iterator[tuple[str, Any]]:
    """Iterate over everything in a configuration with its id, parents first."""
    if isinstance(config, (dict, list)):
        for _, name, node in ReferenceResolver.iter_subconfigs(where, config):
            yield name, node
            yield from _nodes(node, name)


def _suggest(name: Any, known: Iterable[Any]) -> str:
    near = difflib.get_close_matches(str(name), [str(other) for other in known], n=1)
    return near[0] if near else ""


def _join(where: str, name: Any) -> str:
    return f"{where}::{name}" if where else str(name)


def _first_line(error: BaseException) -> str:
    return " ".join(str(error).split())
