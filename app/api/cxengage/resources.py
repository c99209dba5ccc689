"""What tenants set up: patterns, templates, listeners, integrations and augments, under `/tenants/<tenant>/…`.

200 read and changed, 201 made, 204 deleted; PUT changes the fields that it names and leaves the others alone.
docs/cxengage-resources.md tells each route.
"""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from typing import Any

import msgspec
from flask import Blueprint, Flask, Response, current_app, request
from werkzeug.formparser import FormDataParser

from app.api.cxengage import auth
from app.api.cxengage.schemas import (
    AugmentSchema,
    IntegrationSchema,
    ListenerSchema,
    PatternSchema,
    TemplateSchema,
    load,
)
from app.api.rate_limit import PerMinute
from app.api.request_body import read_body
from app.core.config import Settings
from app.core.errors import Problem, ProblemType
from app.core.exact_json import ExactObject, read_object
from app.core.models import ACCOUNT_MANAGE
from app.core.timestamps import utc_text
from app.services.context import AppContext
from app.services.cxengage import crud, csv_file, enrichment, integrations, listeners, patterns, templates
from app.services.cxengage.crud import (
    AUGMENTS,
    LISTENERS,
    PATTERNS,
    TEMPLATES,
    AugmentRow,
    ListenerRow,
    PatternRow,
    TemplateRow,
)
from app.services.cxengage.integrations import Shown
from app.services.cxengage.listeners import MadeListener

blueprint = Blueprint("cxengage_resources", __name__)
_patterns, _templates, _listeners, _augments, _integrations = (
    PatternSchema(),
    TemplateSchema(),
    ListenerSchema(),
    AugmentSchema(),
    IntegrationSchema(),
)
# So many requests a tenant may make here.
MOST_A_MINUTE = 600
# Room for the head and foot of a form around the largest file.
_AROUND_A_FILE = 8 * 1024


def _context() -> AppContext:
    context: AppContext = current_app.extensions["context"]
    return context


def register(app: Flask, settings: Settings) -> None:
    """Serve the routes under both prefixes."""
    app.extensions["management_limiter"] = PerMinute(settings)
    auth.register(app, [blueprint])


def _account(tenant: str) -> int:
    """The tenant's account, for somebody who may change it; raises Problem, 429 where that is done too often."""
    account_id = auth.authenticate(tenant, ACCOUNT_MANAGE).account.snapshot.id
    limiter: PerMinute = current_app.extensions["management_limiter"]
    if not limiter.lets_in(MOST_A_MINUTE, "management", str(account_id)):
        raise Problem(
            ProblemType.RATE_LIMIT_EXCEEDED, f"{MOST_A_MINUTE} a minute are let in.", headers={"Retry-After": "60"}
        )
    return account_id


def read_fields() -> ExactObject:
    """The JSON object in the request's body; raises Problem."""
    settings = _context().settings
    body = read_body(
        request, limit=settings.max_event_bytes, seconds=settings.body_timeout, media_types=("application/json",)
    )
    return read_object(body)


# Patterns


@blueprint.get("/tenants/<tenant>/patterns")
def list_patterns(tenant: str) -> Response:
    """All patterns."""
    rows = crud.list_resources(_context(), _account(tenant), PATTERNS)
    return auth.answer([_pattern(row) for row in rows])


@blueprint.post("/tenants/<tenant>/patterns")
def create_pattern(tenant: str) -> Response:
    """Make a pattern; one that is to be on has to be one that can be carried out."""
    account = _account(tenant)
    return auth.answer(_pattern(patterns.create_pattern(_context(), account, _loaded(_patterns))), 201)


@blueprint.get("/tenants/<tenant>/patterns/<name>")
def show_pattern(tenant: str, name: str) -> Response:
    """One pattern."""
    return auth.answer(_pattern(crud.find_resource(_context(), _account(tenant), PATTERNS, name)))


@blueprint.put("/tenants/<tenant>/patterns/<name>")
def change_pattern(tenant: str, name: str) -> Response:
    """Change a pattern, switch it on or off."""
    account = _account(tenant)
    changes = _loaded(_patterns, name)
    return auth.answer(_pattern(patterns.change_pattern(_context(), account, name, changes)))


@blueprint.delete("/tenants/<tenant>/patterns/<name>")
def delete_pattern(tenant: str, name: str) -> Response:
    """Delete a pattern with the runs that it has started."""
    patterns.remove_pattern(_context(), _account(tenant), name)
    return Response(status=204)


def _pattern(row: PatternRow) -> dict[str, Any]:
    texts = {"when": row.when_text, "then": row.then_text, "code": row.code, "key": row.key}
    return {
        "id": f"PT{row.number}",
        "name": row.name,
        "description": row.description,
        "status": row.status,
        **{name: text for name, text in texts.items() if text is not None},
    }


# Templates


@blueprint.get("/tenants/<tenant>/templates")
def list_templates(tenant: str) -> Response:
    """All templates."""
    rows = crud.list_resources(_context(), _account(tenant), TEMPLATES)
    return auth.answer([_template(row) for row in rows])


@blueprint.post("/tenants/<tenant>/templates")
def create_template(tenant: str) -> Response:
    """Make a template."""
    account = _account(tenant)
    return auth.answer(_template(templates.create_template(_context(), account, _loaded(_templates))), 201)


@blueprint.get("/tenants/<tenant>/templates/<name>")
def show_template(tenant: str, name: str) -> Response:
    """One template."""
    return auth.answer(_template(crud.find_resource(_context(), _account(tenant), TEMPLATES, name)))


@blueprint.put("/tenants/<tenant>/templates/<name>")
def change_template(tenant: str, name: str) -> Response:
    """Change a template, and with it the patterns that are switched on and use it."""
    account = _account(tenant)
    changes = _loaded(_templates, name)
    return auth.answer(_template(templates.change_template(_context(), account, name, changes)))


@blueprint.delete("/tenants/<tenant>/templates/<name>")
def delete_template(tenant: str, name: str) -> Response:
    """Delete a template that no pattern uses which is switched on."""
    templates.remove_template(_context(), _account(tenant), name)
    return Response(status=204)


def _template(row: TemplateRow) -> dict[str, Any]:
    return {"id": f"TM{row.number}", "name": row.name, "description": row.description, "template": row.template}


# Listeners


@blueprint.get("/tenants/<tenant>/listeners")
def list_listeners(tenant: str) -> Response:
    """All listeners."""
    rows = crud.list_resources(_context(), _account(tenant), LISTENERS)
    return auth.answer([_listener(row) for row in rows])


@blueprint.post("/tenants/<tenant>/listeners")
def create_listener(tenant: str) -> Response:
    """Make a listener; the answer has its token, this once."""
    account = _account(tenant)
    values, more = _listener_fields(None)
    return auth.answer(_made(tenant, listeners.create_listener(_context(), account, values, more)), 201)


@blueprint.get("/tenants/<tenant>/listeners/<name>")
def show_listener(tenant: str, name: str) -> Response:
    """One listener."""
    return auth.answer(_listener(crud.find_resource(_context(), _account(tenant), LISTENERS, name)))


@blueprint.put("/tenants/<tenant>/listeners/<name>")
def change_listener(tenant: str, name: str) -> Response:
    """Change a listener."""
    account = _account(tenant)
    values, more = _listener_fields(name)
    return auth.answer(_listener(listeners.change_listener(_context(), account, name, values, more)))


@blueprint.delete("/tenants/<tenant>/listeners/<name>")
def delete_listener(tenant: str, name: str) -> Response:
    """Delete a listener; its token opens nothing any more."""
    listeners.remove_listener(_context(), _account(tenant), name)
    return Response(status=204)


@blueprint.post("/tenants/<tenant>/listeners/<name>/token")
def renew_token(tenant: str, name: str) -> Response:
    """Give a listener a new token in the place of the one it has."""
    return auth.answer(_made(tenant, listeners.renew_token(_context(), _account(tenant), name)), 201)


@blueprint.get("/tenants/<tenant>/listeners/<name>/status")
def show_listener_status(tenant: str, name: str) -> Response:
    """Whether a listener takes events, how many it has taken, and when the last one."""
    row = crud.find_resource(_context(), _account(tenant), LISTENERS, name)
    last = None if row.last_received_at is None else utc_text(row.last_received_at)
    counted = "1 event" if row.received == 1 else f"{row.received} events"
    told = "no event yet" if last is None else f"{counted}, the last at {last}"
    return auth.answer(
        {
            "id": f"LI{row.number}",
            "status": "started" if row.status else "stopped",
            "message": told,
            "received": row.received,
            "last-received-at": last,
        }
    )


# What stands in a listener by a field of its own, and what is told when it is made.
_NAMED = frozenset(_listeners.fields) | {"token", "receive"}


def _listener_fields(known: str | None) -> tuple[dict[str, Any], dict[str, str]]:
    """The named fields of a listener, and the others as JSON texts."""
    exact = read_fields()
    for name in ("token", "receive"):
        if name in exact.value:
            raise Problem(
                ProblemType.VALIDATION_FAILED, f"{name}: is told once and cannot be set; POST …/token makes one"
            )
    values = load(_listeners, exact.value, known=known)
    if "options" in values:
        values.pop("options")
        values["options_json"] = exact.raw.get("options", "{}")
    return values, {name: text for name, text in exact.raw.items() if name not in _NAMED}


def _listener(row: ListenerRow) -> dict[str, Any]:
    return {
        **msgspec.json.decode(row.more_json, type=dict[str, msgspec.Raw]),
        "id": f"LI{row.number}",
        "name": row.name,
        "description": row.description,
        "type": row.type,
        "status": row.status,
        "mapping": row.mapping,
        "options": msgspec.Raw(row.options_json.encode()),
    }


def _made(tenant: str, made: MadeListener) -> dict[str, Any]:
    shown = _listener(made.row)
    receive = f"/1.0/tenants/{tenant}/listeners/{shown['id']}/receive?token={made.token}"
    return {**shown, "token": made.token, "receive": receive}


# Integrations


@blueprint.get("/tenants/<tenant>/integrations")
def list_integrations(tenant: str) -> Response:
    """All integrations, secrets masked."""
    found = integrations.list_integrations(_context(), _account(tenant))
    return auth.answer([_integration(shown) for shown in found])


@blueprint.get("/tenants/<tenant>/integrations/<name>")
def show_integration(tenant: str, name: str) -> Response:
    """One integration, secrets masked."""
    return auth.answer(_integration(integrations.find_integration(_context(), _account(tenant), name)))


@blueprint.post("/tenants/<tenant>/integrations/<name>")
def set_integration(tenant: str, name: str) -> Response:
    """Set an integration up, or change the named fields of the one there is."""
    account = _account(tenant)
    value = read_fields().value
    load(_integrations, {key: value[key] for key in ("id", "type") if key in value}, known=value.get("id"))
    for key in ("id", "type"):
        if value.get(key, name) != name:
            raise Problem(ProblemType.VALIDATION_FAILED, f"{key}: has to be {name}, as in the address")
    fields = {key: text for key, text in value.items() if key not in ("id", "type")}
    for key, text in fields.items():
        if not isinstance(text, str):
            raise Problem(ProblemType.VALIDATION_FAILED, f"{key[:80]}: has to be text")
    return auth.answer(_integration(integrations.set_integration(_context(), account, name, fields)))


def _integration(shown: Shown) -> dict[str, Any]:
    return {"id": shown.id, "type": shown.id, **shown.fields}


# Augments


@blueprint.get("/tenants/<tenant>/augments")
def list_augments(tenant: str) -> Response:
    """All augments."""
    rows = crud.list_resources(_context(), _account(tenant), AUGMENTS)
    return auth.answer([_augment(row) for row in rows])


@blueprint.post("/tenants/<tenant>/augments")
def create_augment(tenant: str) -> Response:
    """Make an augment."""
    account = _account(tenant)
    values = _augment_values(_loaded(_augments))
    enrichment.check_url(values["type"], values.get("url"))
    return auth.answer(_augment(enrichment.create_augment(_context(), account, values)), 201)


@blueprint.get("/tenants/<tenant>/augments/<name>")
def show_augment(tenant: str, name: str) -> Response:
    """One augment."""
    return auth.answer(_augment(crud.find_resource(_context(), _account(tenant), AUGMENTS, name)))


@blueprint.put("/tenants/<tenant>/augments/<name>")
def change_augment(tenant: str, name: str) -> Response:
    """Change an augment."""
    account = _account(tenant)
    changes = _augment_values(_loaded(_augments, name))
    return auth.answer(_augment(enrichment.change_augment(_context(), account, name, changes)))


@blueprint.delete("/tenants/<tenant>/augments/<name>")
def delete_augment(tenant: str, name: str) -> Response:
    """Delete an augment with its file."""
    enrichment.remove_augment(_context(), _account(tenant), name)
    return Response(status=204)


@blueprint.post("/tenants/<tenant>/augments/<name>/file")
def put_file(tenant: str, name: str) -> Response:
    """Take a CSV file in the place of the one there is: as the body, or as the field `file` of a form."""
    account = _account(tenant)
    raw = _file(_context())
    row = enrichment.put_file(_context(), account, name, raw)
    return auth.answer({"id": f"AU{row.number}", "columns": row.columns, "rows": row.rows})


@blueprint.get("/tenants/<tenant>/augments/<name>/file")
def show_file(tenant: str, name: str) -> Response:
    """The CSV file."""
    text = enrichment.read_file(_context(), _account(tenant), name)
    return Response(text, content_type="text/csv; charset=utf-8")


def _file(context: AppContext) -> bytes:
    """The bytes of the posted file; raises Problem."""
    limit = csv_file.LARGEST + (_AROUND_A_FILE if request.mimetype == "multipart/form-data" else 0)
    body = read_body(
        request, limit=limit, seconds=context.settings.body_timeout, media_types=("text/csv", "multipart/form-data")
    )
    if request.mimetype == "text/csv":
        return body
    try:
        # In memory, where the body is already.
        parser = FormDataParser(stream_factory=lambda *_, **__: BytesIO(), silent=False)
        _, _, files = parser.parse(BytesIO(body), request.mimetype, len(body), dict(request.mimetype_params))
    except ValueError:
        raise Problem(ProblemType.MALFORMED_BODY, "The form cannot be read.") from None
    if "file" not in files:
        raise Problem(ProblemType.MALFORMED_BODY, "file: is missing: the form's field with the CSV file")
    raw: bytes = files["file"].read()
    if len(raw) > csv_file.LARGEST:
        raise Problem(ProblemType.BODY_TOO_LARGE, f"The file is larger than {csv_file.LARGEST} bytes.")
    return raw


def _augment_values(loaded: Mapping[str, Any]) -> dict[str, Any]:
    """The values of an augment's columns."""
    values = {name: loaded[name] for name in ("name", "description", "type", "url", "attributes") if name in loaded}
    if "options" in loaded:
        values |= {**loaded["options"], "in_options": True}
    elif "url" in loaded or "attributes" in loaded or "type" in loaded:
        values["in_options"] = False
    return values


def _augment(row: AugmentRow) -> dict[str, Any]:
    known = {"url": row.url, "attributes": row.attributes}
    fields = {name: value for name, value in known.items() if value is not None}
    return {
        "id": f"AU{row.number}",
        "name": row.name,
        "description": row.description,
        "type": row.type,
        "service": "engine",
        "augment-service": "engine",
        **({"options": fields} if row.in_options else fields),
    }


def _loaded(schema: Any, known: str | None = None) -> dict[str, Any]:
    return load(schema, read_fields().value, known=known)
