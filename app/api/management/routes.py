"""Registers the routes of the management API: what each needs, checks and documents is said in one call of `route`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import wraps
from http import HTTPStatus
from typing import Any, TypeVar

import flask_smorest
from flask import Response, g, request
from marshmallow import Schema

from app.api.bearer_limit import management_limit
from app.api.management.access import ACCOUNT, Access, authorize
from app.api.management.request_body import Parser, check_query, invalid, sent_body
from app.core.idempotency_keys import MAX_LENGTH, describe_rule, is_idempotency_key
from app.db.stored_answers import RequestKey
from app.services.request_transactions import Answer, answer_once, change_account

View = TypeVar("View", bound=Callable[..., Any])
PREFIX = "/api/v1/manage"
SECURITY = "bearer"
IDEMPOTENCY_KEY = "Idempotency-Key"
BYTES_TYPE = "application/octet-stream"
# What the answer to a repeated request has, too.
_REPEATED_HEADERS = ("Content-Type", "ETag", "Location")
# The problems that every route, and every route with a body, can answer with.
_PROBLEMS, _BODY_PROBLEMS = (400, 401, 403, 404, 422, 429, 503), (408, 413, 415)
_ACCOUNT_PARAMETER = {
    "name": ACCOUNT,
    "in": "query",
    "description": "Another account, by its slug or id: for keys with the scope `operator`.",
    "schema": {"type": "string", "pattern": "^[a-z0-9][a-z0-9-]{0,62}$"},
}
_KEY_PARAMETER = {
    "name": IDEMPOTENCY_KEY,
    "in": "header",
    "description": "A request that is sent again with its key within 24 hours is not carried out again and gets the same answer.",
    "schema": {"type": "string", "pattern": f"^[!-~]([ -~]{{0,{MAX_LENGTH - 2}}}[!-~])?$"},
}


class Bytes(Schema):
    """Marks a route whose view returns bytes as they were received: a class without fields, because `answer` takes a class."""


class Blueprint(flask_smorest.Blueprint):
    """The routes of one resource."""

    ARGUMENTS_PARSER = Parser()

    def add_view(self, rule: str, name: str, view: Callable[..., Any], method: str) -> None:
        """Add a route, which takes the account of an operator."""
        self.add_url_rule(rule, name, view, methods=[method], parameters=[_ACCOUNT_PARAMETER])


def route(
    blueprint: Blueprint,
    method: str,
    rule: str,
    scope: str,
    *,
    more_scopes: tuple[str, ...] = (),
    query: type[Schema] | None = None,
    body: type[Schema] | None = None,
    answer: type[Schema] | None = None,
    status: int = 200,
    is_atomic: bool = True,
    takes_key: bool = True,
    links: Mapping[str, Any] | None = None,
) -> Callable[[View], View]:
    """Register a view. It is called with the loaded query and body, if the route has any, and the values of the path. With the
    answer Bytes it returns a Response, and sets its ETag. GET only reads. POST is carried out once for an `Idempotency-Key`, in
    one transaction; `is_atomic` False: in those of its use case. `takes_key` False: it changes nothing, or nothing twice, and its
    answer is not kept. PUT, PATCH and DELETE run while nobody else changes the account, and call `blueprint.check_etag`."""
    known = frozenset({ACCOUNT} | (set(query().fields) if query else set()))
    run = _runner(method, is_atomic=is_atomic) if takes_key else _call_view

    def register(view: View) -> View:
        handled = _handled(blueprint, view, status, query, body, answer)
        handled = blueprint.etag(handled) if method != "POST" or status == HTTPStatus.CREATED else handled
        document = blueprint.doc(**_document(view, method, (scope, *more_scopes), status, links, takes_key=takes_key))
        handled = document(_with_problems(blueprint, handled, method))

        @wraps(handled)
        def checked(**values: Any) -> Any:
            access = authorize(scope, *more_scopes)
            check_query(known)
            _receive_body(method, body)
            with access.context.limits.management_requests.acquire(access.account_id):
                return run(access, lambda: handled(**values))

        blueprint.add_view(rule, view.__name__, management_limit(checked), method)
        return view

    return register


def _receive_body(method: str, body: type[Schema] | None) -> None:
    """Read the body that is needed later. It may come slowly: nothing is held meanwhile."""
    if body is not None or (method == "POST" and IDEMPOTENCY_KEY in request.headers):
        sent_body()


def _runner(method: str, *, is_atomic: bool) -> Callable[[Access, Callable[[], Response]], Response]:
    """What carries out the requests of a method."""
    return {"GET": _call_view, "POST": _post if is_atomic else _post_in_parts}.get(method, _change)


def _handled(
    blueprint: Blueprint,
    view: Callable[..., Any],
    status: int,
    query: type[Schema] | None,
    body: type[Schema] | None,
    answer: type[Schema] | None,
) -> Callable[..., Any]:
    """The view between its schemas."""
    if answer is Bytes:
        handled: Callable[..., Any] = blueprint.response(status, {"type": "string"}, content_type=BYTES_TYPE)(view)
    else:
        handled = blueprint.response(status, answer)(view if answer else _without_content(view))
    if body is not None:
        is_required = any(field.required for field in body().fields.values())
        handled = blueprint.arguments(body, required=is_required)(handled)
    return handled if query is None else blueprint.arguments(query, location="query")(handled)


def _without_content(view: Callable[..., Any]) -> Callable[..., Response]:
    """A view whose answer has no body."""

    @wraps(view)
    def empty(*arguments: Any, **values: Any) -> Response:
        view(*arguments, **values)
        return Response(status=HTTPStatus.NO_CONTENT)

    return empty


def _document(
    view: Callable[..., Any],
    method: str,
    scopes: tuple[str, ...],
    status: int,
    links: Mapping[str, Any] | None,
    *,
    takes_key: bool,
) -> dict[str, Any]:
    found: dict[str, Any] = {"operationId": view.__name__, "security": [{SECURITY: list(scopes)}]}
    if method == "POST" and takes_key:
        found["parameters"] = [_KEY_PARAMETER]
    if links:
        found["responses"] = {status: {"links": dict(links)}}
    return found


def _with_problems(blueprint: Blueprint, view: Callable[..., Any], method: str) -> Callable[..., Any]:
    statuses = _PROBLEMS if method == "GET" else (*_PROBLEMS, *_BODY_PROBLEMS, 409)
    for status in statuses:
        view = blueprint.alt_response(status, response=HTTPStatus(status).name)(view)
    return view


def _call_view(access: Access, handle: Callable[[], Response]) -> Response:
    g.access = access
    return handle()


def _change(access: Access, handle: Callable[[], Response]) -> Response:
    return change_account(access.context, access.account_id, lambda context: _call_view(access.within(context), handle))


def _post(access: Access, handle: Callable[[], Response]) -> Response:
    return _once(access, handle, is_atomic=True)


def _post_in_parts(access: Access, handle: Callable[[], Response]) -> Response:
    return _once(access, handle, is_atomic=False)


def _once(access: Access, handle: Callable[[], Response], *, is_atomic: bool) -> Response:
    key = request.headers.get(IDEMPOTENCY_KEY)
    if key is None:
        return _call_view(access, handle)
    if not is_idempotency_key(key):
        raise invalid([{"field": IDEMPOTENCY_KEY, "message": describe_rule()}])
    parts = (request.method.encode(), request.full_path.encode(), sent_body())
    digest = hashlib.sha256(b"\0".join(parts)).hexdigest()
    answer = answer_once(
        access.context,
        RequestKey(access.account_id, access.caller, key),
        digest,
        lambda context: _answer_of(_call_view(access.within(context), handle)),
        is_atomic=is_atomic,
    )
    headers = {**answer.headers, **({"Idempotency-Replayed": "true"} if answer.is_repeated else {})}
    return Response(answer.body, answer.status, headers)


def _answer_of(response: Response) -> Answer:
    headers = {name: response.headers[name] for name in _REPEATED_HEADERS if name in response.headers}
    return Answer(response.status_code, headers, response.get_data(as_text=True))
