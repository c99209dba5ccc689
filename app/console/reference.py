"""The reference of all routes, made from the OpenAPI document: one page for each of its tags. It is open, as the document is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
from flask import Blueprint, abort, current_app, render_template, request
from markupsafe import Markup, escape

blueprint = Blueprint("reference", __name__)
_METHODS = ("get", "post", "put", "patch", "delete")
_REFERENCE = "#/components/schemas/"
# Limits in the words of the page, by the name that JSON Schema gives them.
_LIMITS = {
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "minimum": "at least {}",
    "maximum": "at most {}",
    "minItems": "at least {} items",
    "maxItems": "at most {} items",
}
# Limits that say nothing.
_NO_LIMITS = {"minLength": 0, "minItems": 0}


@dataclass(frozen=True)
class Kind:
    """The type of a value in words, with the schema on the same page that says more."""

    text: str
    schema: str | None = None


@dataclass(frozen=True)
class Member:
    """A member of an object, or a parameter: `location` is where it is sent."""

    name: str
    kind: Kind
    is_required: bool
    description: str
    limits: str
    location: str = ""


@dataclass(frozen=True)
class Body:
    """A body of a request or an answer."""

    media_type: str
    kind: Kind
    example: str


@dataclass(frozen=True)
class Answer:
    """What a status means."""

    status: str
    description: str
    bodies: tuple[Body, ...]


@dataclass(frozen=True)
class Operation:
    """A route as the page shows it."""

    name: str
    method: str
    paths: tuple[str, ...]
    summary: str
    description: str
    access: str
    parameters: tuple[Member, ...]
    bodies: tuple[Body, ...]
    answers: tuple[Answer, ...]


@dataclass
class Part:
    """The operations of a tag, and the schemas that they use."""

    document: Mapping[str, Any]
    operations: list[Operation] = field(default_factory=list)
    schemas: dict[str, list[Member]] = field(default_factory=dict)

    def add(self, path: str, method: str, item: Mapping[str, Any]) -> None:
        """Add an operation of a path."""
        spec = item[method]
        servers = item.get("servers", self.document["servers"])
        self.operations.append(
            Operation(
                spec["operationId"],
                method.upper(),
                tuple(server["url"].rstrip("/") + path for server in servers),
                spec["summary"],
                spec.get("description", ""),
                _access(spec),
                tuple(self._parameter(one) for one in (*item.get("parameters", ()), *spec.get("parameters", ()))),
                self._bodies(spec.get("requestBody", {})),
                tuple(self._answer(status, answer) for status, answer in sorted(spec["responses"].items())),
            )
        )

    def _parameter(self, one: Mapping[str, Any]) -> Member:
        one = self._resolve(one)
        schema = one.get("schema", {})
        text = one.get("description") or schema.get("description", "")
        return Member(
            one["name"], self._kind(schema), one.get("required", False), text, _limits(schema), one.get("in", "")
        )

    def _bodies(self, holder: Mapping[str, Any]) -> tuple[Body, ...]:
        return tuple(
            Body(media_type, self._kind(content["schema"]), self._example(content))
            for media_type, content in holder.get("content", {}).items()
        )

    def _answer(self, status: str, answer: Mapping[str, Any]) -> Answer:
        answer = self._resolve(answer)
        return Answer(status, answer.get("description", ""), self._bodies(answer))

    def _example(self, content: Mapping[str, Any]) -> str:
        example = content.get("example", self._example_of(content["schema"]))
        if example in (None, {}):
            return ""
        return example if isinstance(example, str) else msgspec.json.format(msgspec.json.encode(example)).decode()

    def _example_of(self, schema: Mapping[str, Any]) -> Any:
        """An example put together from those of the members."""
        schema = self._resolve(schema)
        if "example" in schema:
            return schema["example"]
        found = {name: self._example_of(one) for name, one in schema.get("properties", {}).items() if "$ref" not in one}
        return {name: example for name, example in found.items() if example not in (None, {})}

    def _resolve(self, one: Mapping[str, Any]) -> Mapping[str, Any]:
        """A schema, parameter or response, or the component that it refers to."""
        if "$ref" not in one:
            return one
        kind, name = one["$ref"].split("/")[-2:]
        found: Mapping[str, Any] = self.document["components"][kind][name]
        return found

    def _kind(self, schema: Mapping[str, Any]) -> Kind:
        """The type of a schema; a named one is added to the page."""
        if "$ref" in schema:
            name = schema["$ref"].removeprefix(_REFERENCE)
            self._add_schema(name, self._resolve(schema))
            return Kind(name, name)
        if "anyOf" in schema:
            kinds = [self._kind(one) for one in schema["anyOf"]]
            named = next((kind.schema for kind in kinds if kind.schema), None)
            return Kind(" or ".join(kind.text for kind in kinds), named)
        types = schema.get("type", "any value")
        text = " or ".join([types] if isinstance(types, str) else types)
        if "items" in schema:
            of = self._kind(schema["items"])
            return Kind(f"{text} of {of.text}", of.schema)
        return Kind(f"{text} ({schema['format']})" if "format" in schema else text)

    def _add_schema(self, name: str, schema: Mapping[str, Any]) -> None:
        if name in self.schemas:
            return
        # Before its members: a schema may contain itself.
        self.schemas[name] = members = []
        required = schema.get("required", ())
        for member, one in schema.get("properties", {}).items():
            members.append(
                Member(member, self._kind(one), member in required, one.get("description", ""), _limits(one))
            )


def _limits(schema: Mapping[str, Any]) -> str:
    """The rules of a value, in words."""
    return "; ".join(_words(schema))


def _words(schema: Mapping[str, Any]) -> Iterator[str]:
    choices = schema.get("enum") or schema.get("items", {}).get("enum")
    if choices:
        yield "one of " + ", ".join(map(str, choices))
    for name, words in _LIMITS.items():
        if name in schema and schema[name] != _NO_LIMITS.get(name):
            yield words.format(schema[name])
    if "pattern" in schema:
        yield f"like {schema['pattern']}"
    if schema.get("default") not in (None, ""):
        yield f"without: {msgspec.json.encode(schema['default']).decode()}"


def _access(spec: Mapping[str, Any]) -> str:
    """What the request has to be authenticated by."""
    names = {"bearer": "Authorization: Bearer KEY", "limechat": "x-limechat-uat: KEY", "client": "HTTP Basic"}
    found = [
        names[scheme] + (f", scope {', '.join(scopes)}" if scopes else "")
        for one in spec.get("security", ())
        for scheme, scopes in one.items()
    ]
    return " or ".join(found)


def _operations(document: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for path, item in document["paths"].items():
        for method in _METHODS:
            if method in item:
                yield path, method, item


@blueprint.get("/api")
def show() -> Any:
    """The list of tags, or with `part` the operations of one."""
    name = request.args.get("part")
    content = _find_content(name)
    if name is None:
        return render_template("reference.html", content=content)
    return render_template("reference_part.html", content=content, name=name)


def _find_content(name: str | None) -> Markup:
    """What the page of a tag, or the list of tags (None), shows of the document: rendered once, since anyone may ask for it."""
    # For each page that there is; None: not yet rendered.
    contents: dict[str | None, Markup | None] = current_app.extensions.setdefault("reference", {})
    if not contents:
        contents.update(dict.fromkeys([None, *(tag["name"] for tag in current_app.extensions["openapi"]()["tags"])]))
    if name not in contents:
        abort(404)
    content = contents[name]
    if content is None:
        content = contents[name] = _render_content(current_app.extensions["openapi"](), name)
    return content


def _render_content(document: Mapping[str, Any], name: str | None) -> Markup:
    """Without what templates know of the request and the user."""
    if name is None:
        found = [(item[method]["tags"][0], path, method, item[method]) for path, method, item in _operations(document)]
        return _render("reference_content.html", document=document, operations=found)
    part = Part(document)
    for path, method, item in _operations(document):
        if name in item[method]["tags"]:
            part.add(path, method, item)
    return _render("reference_part_content.html", part=part)


def _render(template: str, **names: Any) -> Markup:
    return escape(current_app.jinja_env.get_template(template).make_module(names))
