"""Command-line options made from config dataclasses: one source for CLI, recipe and Python."""
from __future__ import annotations

import dataclasses
import typing
from typing import Any, Callable, Dict, Iterable, List, Literal, Mapping, Optional, Tuple, get_args, get_origin

import click

from edgepress.recipe import make_config


class CommaList(click.ParamType):
    """Values separated by commas."""

    name = "a,b"

    def __init__(self, kind: type, choices: Tuple[str, ...] = ()) -> None:
        self.kind, self.choices = kind, choices

    def convert(self, value: Any, param: Optional[click.Parameter], ctx: Optional[click.Context]) -> Tuple[Any, ...]:
        if isinstance(value, tuple):
            return value
        try:
            return tuple(self.kind(part.strip()) for part in str(value).split(",") if part.strip())
        except ValueError:
            self.fail(f"{value!r} is not a list of {self.kind.__name__} separated by commas")

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> List[Any]:
        from click.shell_completion import CompletionItem

        head, _, last = incomplete.rpartition(",")
        return [CompletionItem(f"{head},{c}" if head else c) for c in self.choices if c.startswith(last)]


class OrNone(click.ParamType):
    """A value, or the word none."""

    def __init__(self, kind: click.ParamType) -> None:
        self.kind, self.name = kind, f"{kind.name}|none"

    def convert(self, value: Any, param: Optional[click.Parameter], ctx: Optional[click.Context]) -> Any:
        return value if value == "none" else self.kind.convert(value, param, ctx)


def _click_type(kind: Any) -> click.ParamType:
    if get_origin(kind) is typing.Union:
        inner = next(k for k in get_args(kind) if k is not type(None))
        return _click_type(inner) if get_origin(inner) is Literal else OrNone(_click_type(inner))
    if get_origin(kind) is Literal:
        return click.Choice(get_args(kind))
    if get_origin(kind) is tuple:
        item = get_args(kind)[0]
        return CommaList(str, get_args(item)) if get_origin(item) is Literal else CommaList(item)
    return {int: click.INT, float: click.FLOAT, str: click.STRING}[kind]


def _default_text(value: Any) -> str:
    return "none" if value is None else ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def config_options(config_type: type, *, only: Optional[Iterable[str]] = None) -> Callable[[Callable], Callable]:
    """A decorator that adds one option per field; an option that is not given is not passed on."""
    kinds = typing.get_type_hints(config_type)
    fields = [f for f in dataclasses.fields(config_type) if only is None or f.name in set(only)]

    def decorate(function: Callable) -> Callable:
        for f in reversed(fields):
            name = f.name.replace("_", "-")
            text = f.metadata["help"] if f.default in (None, ()) else f"{f.metadata['help']} [default: {_default_text(f.default)}]"
            if kinds[f.name] is bool:
                function = click.option(f"--{name}/--no-{name}", f.name, default=None, help=text)(function)
            else:
                function = click.option(f"--{name}", f.name, type=_click_type(kinds[f.name]), default=None, help=text)(function)
        return function

    return decorate


def given(config_type: type, values: Mapping[str, Any]) -> Dict[str, Any]:
    """Those of `values` that belong to `config_type` and were given on the command line."""
    names = {f.name for f in dataclasses.fields(config_type)}
    return {k: v for k, v in values.items() if k in names and v is not None}


def config_from(config_type: type, values: Mapping[str, Any], *, command: str) -> Any:
    """The config that the given options mean."""
    return make_config(config_type, given(config_type, values), where=f"edgepress {command}")
