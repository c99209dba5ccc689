"""Templates: Liquid texts, or `{mustache: TEXT}` (`mustache.py`), over the names of a run and `now`.

Authors are not trusted, so everything is limited. Missing values print as nothing; in strict templates they are an error.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from typing import Any, TypeVar

from liquid.exceptions import LiquidError, UndefinedError

from app.actions.masking import Secrets, is_secret_member
from app.actions.templates.liquid import Missing, NamesWithSecrets, Template
from app.actions.templates.mustache import MAX_TEMPLATE_CHARS, MustacheError, mustache_source
from app.actions.templates.mustache import members_read as mustache_members_read
from app.actions.templates.mustache import paths_read as mustache_paths_read
from app.actions.templates.mustache import render as render_mustache
from app.actions.templates.parsing import (
    TemplateError,
    Text,
    error_message,
    find_misread_secret,
    parse,
    parse_mustache,
)
from app.actions.templates.template_budget import LimitError, TemplateBudget
from app.actions.templates.template_values import prepare_value, to_data, weight
from app.core.template_names import EVENT_NAMES, RUN_NAMES, SECRET_NAME, SECRETS

__all__ = ["MAX_TEMPLATE_CHARS", "NAMES", "TemplateError", "Text"]

T = TypeVar("T")

NAMES = (*EVENT_NAMES, *RUN_NAMES)

MAX_VALUE_CHARS = 256 * 1024


class Names(dict[str, Any]):
    """The names that the templates of one attempt can read, and what these templates may still use. With `strict`, a missing
    name is an error. Liquid texts can print the secrets that `add_secrets` was called with."""

    def __init__(self, names: Mapping[str, Any], *, strict: bool, budget: TemplateBudget | None = None) -> None:
        super().__init__({"now": None, "today": None, **names})
        self.strict, self.budget = strict, budget or TemplateBudget()
        self._prepared: dict[str, Any] = {}
        self.for_liquid: Mapping[str, Any] = self

    def add_secrets(self, values: Mapping[str, str], masked: Secrets) -> None:
        """Let Liquid texts print these secrets. `masked` gets their values, and what filters make of them."""
        masked.add(*values.values())
        self.for_liquid = NamesWithSecrets(self, values, masked.add_value)

    def __getitem__(self, name: str) -> Any:
        if name not in self._prepared:
            self._prepared[name] = prepare_value(super().__getitem__(name), self.budget.charge)
        return self._prepared[name]

    def get(self, name: str, default: Any = None) -> Any:
        """The value of a name, or `default`."""
        try:
            return self[name]
        except KeyError:
            return default


def prepare(names: Mapping[str, Any], *, strict: bool = False) -> Names:
    """`names` for templates. All texts that are rendered with the result share one budget."""
    return names if isinstance(names, Names) else Names(names, strict=strict)


def is_text(value: Any) -> bool:
    """Whether a value is a template: a Liquid text, or `{mustache: TEXT}`."""
    return isinstance(value, str) or mustache_source(value) is not None


def check(text: Text, known: Collection[str] = NAMES, *, with_secrets: bool = False) -> str | None:
    """The error of a template, or None. A Liquid text may read the names in `known`; `with_secrets`: it may print secrets."""
    try:
        if not isinstance(text, str):
            return _check_mustache(text, with_secrets=with_secrets)
        template = parse(text)
        for name, _, index in template.names_read if template else ():
            if template is not None and name not in (*known, SECRETS):
                return f"{template.source.position(index)}: {name} is unknown; a template can read {', '.join(known)}"
            if template is not None and name == SECRETS and not with_secrets:
                return f"{template.source.position(index)}: secrets can be read in the fields of the action http only"
        return None if template is None else find_misread_secret(template)
    except TemplateError as exc:
        return str(exc)


def _check_mustache(text: Text, *, with_secrets: bool) -> str | None:
    """The error of a Mustache template. `secrets` is a field of the data there, like any name."""
    names = mustache_members_read(parse_mustache(text)[1], SECRETS)
    if with_secrets and any(map(SECRET_NAME.fullmatch, names)):
        return "secrets can be read in Liquid texts only"
    return None


def check_texts(value: Any, path: str, *, with_secrets: bool = False) -> list[tuple[str, str]]:
    """The errors of all templates in a value of lists and objects, as (path, message)."""
    errors = ((text_path, check(text, with_secrets=with_secrets)) for text_path, text in find_texts(value, path))
    return [(text_path, f"in the template: {message}") for text_path, message in errors if message is not None]


def find_texts(value: Any, path: str) -> Iterator[tuple[str, Text]]:
    """Each template in a value, with its path."""
    if isinstance(value, str):
        yield path, value
    elif is_text(value):
        yield f"{path}.mustache", value
    elif isinstance(value, Mapping):
        for name, member in value.items():
            yield from find_texts(member, f"{path}.{name}")
    elif isinstance(value, list | tuple):
        for index, member in enumerate(value):
            yield from find_texts(member, f"{path}[{index}]")


def members_read(text: Text, root: str) -> frozenset[str]:
    """The members of `root` that a template reads (of `steps`: `nudge` in `steps.nudge.body`); none for an invalid template."""
    try:
        if not isinstance(text, str):
            return mustache_members_read(parse_mustache(text)[1], root)
        template = parse(text)
        names = template.names_read if template else ()
        return frozenset(member for name, member, _ in names if name == root and member)
    except TemplateError:
        return frozenset()


def secrets_read(value: Any) -> frozenset[str]:
    """The names of the secrets that the templates in a value print; none for an invalid template."""
    found = set[str]()
    for _, text in find_texts(value, ""):
        with suppress(TemplateError):
            template = parse(text) if isinstance(text, str) else None
            paths = template.paths_read if template else ()
            found.update(path[1] for path in paths if path[0] == SECRETS and len(path) > 1)
    return frozenset(found)


def find_secret_values(value: Any, names: Names) -> list[Any]:
    """The values that the templates in a value read under the name of a secret, such as `data.token`."""
    found = []
    for _, text in find_texts(value, ""):
        try:
            paths = _paths_read(text, strict=names.strict)
            found += [_look_up(path, names) for path in paths if any(map(is_secret_member, path))]
        except (TemplateError, LimitError):
            # Rendering fails for the same reason, and nothing is sent.
            continue
    return found


def _paths_read(text: Text, *, strict: bool) -> Iterator[tuple[str, ...]]:
    if not isinstance(text, str):
        yield from mustache_paths_read(parse_mustache(text)[1])
    elif (template := parse(text, strict=strict)) is not None:
        yield from template.paths_read


def _look_up(path: tuple[str, ...], names: Names) -> Any:
    value: Any = names
    for part in path:
        if isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            value = value.get(part) if isinstance(value, dict) else None
    return value


def render(text: Text, names: Mapping[str, Any], *, as_html: bool = False) -> str:
    """The rendered text, at most MAX_OUTPUT_BYTES; raises TemplateError.

    With `as_html`, Mustache escapes values for HTML. Liquid does not escape.
    """
    names = prepare(names)
    if not isinstance(text, str):
        return _render_mustache(text, names, as_html=as_html)
    template = parse(text, strict=names.strict)
    return text if template is None else _run(template.fill, names, template)


def _run(use: Callable[[Mapping[str, Any], TemplateBudget], T], names: Names, template: Template) -> T:
    """The result of a method of a template; raises TemplateError."""
    try:
        return use(names.for_liquid, names.budget)
    except LiquidError as exc:
        raise TemplateError(error_message(exc, template.source)) from None
    except RecursionError:
        raise TemplateError("the template is nested too deep") from None
    except MemoryError:
        raise
    except Exception:
        raise TemplateError("the template cannot be rendered: a tag or filter cannot take the values") from None


def render_scalar(value: Any, names: Mapping[str, Any]) -> str:
    """A rendered text, or the text of a number."""
    return render(value if is_text(value) else str(value), names)


def render_value(value: Any, names: Mapping[str, Any]) -> Any:
    """`value` with all texts in its lists and objects rendered; together at most MAX_VALUE_CHARS. A text that is one
    `{{ expression }}` and nothing else becomes the value of the expression, with its type; null if it is missing."""
    try:
        return _rendered(value, prepare(names), [MAX_VALUE_CHARS])
    except RecursionError:
        raise TemplateError("a value is nested too deep") from None


def _rendered(value: Any, names: Names, remaining: list[int]) -> Any:
    if is_text(value):
        rendered = _render_typed(value, names)
        remaining[0] -= weight(rendered)
        if remaining[0] < 0:
            raise TemplateError(f"all texts together have more than {MAX_VALUE_CHARS} characters")
        return to_data(rendered)
    if isinstance(value, Mapping):
        return {name: _rendered(member, names, remaining) for name, member in value.items()}
    if isinstance(value, list | tuple):
        return [_rendered(member, names, remaining) for member in value]
    return value


def _render_typed(text: Text, names: Names) -> Any:
    template = parse(text, strict=names.strict) if isinstance(text, str) else None
    if template is None or not template.is_expression:
        return render(text, names)
    value = _run(template.evaluate, names, template)
    if type(value) is Missing:
        raise TemplateError(error_message(UndefinedError(value.msg, token=value.token), template.source))
    return value


def _render_mustache(text: Text, names: Names, *, as_html: bool) -> str:
    source, tokens = parse_mustache(text)
    try:
        return render_mustache(source, tokens, names, names.budget, strict=names.strict, as_html=as_html)
    except (MustacheError, LimitError) as exc:
        raise TemplateError(str(exc)) from None
    except MemoryError:
        raise
    except Exception:
        raise TemplateError("the template cannot be rendered: a tag or filter cannot take the values") from None
