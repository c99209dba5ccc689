"""The Flask application of the management API, which `create_app` mounts.

It is an application of its own, since flask-smorest handles every HTTP error of the application that it is used in, and the
receivers' formats have errors of their own (docs/decisions/0064-the-management-api-is-an-application-of-its-own.md).
"""

from __future__ import annotations

from functools import cache, partial
from typing import TYPE_CHECKING, Any

import flask_smorest
import msgspec
from flask import Flask, Response, request
from flask.json.provider import JSONProvider

import app as signalbox
from app.api import errors, observation
from app.api.flask_app import Application
from app.api.management import (
    accounts,
    api_keys,
    clients,
    deliveries,
    events,
    integrations,
    members,
    openapi_document,
    overview,
    refusals,
    runs,
    secrets,
    settings,
    sources,
    subjects,
    targets,
    users,
    workflow_trial,
    workflows,
)
from app.api.management.request_body import invalid_document
from app.api.management.routes import PREFIX
from app.api.route_limits import start_limiter_of
from app.core.config import SettingsError
from app.core.errors import Problem, ProblemType
from app.core.exact_json import refuse_unstorable
from app.workflows.yaml_loader import InvalidDocument

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

# The modules with the routes of a resource: each has a `blueprint`.
RESOURCES = (
    api_keys,
    workflows,
    workflow_trial,
    events,
    runs,
    sources,
    deliveries,
    refusals,
    subjects,
    secrets,
    integrations,
    targets,
    overview,
    settings,
    clients,
    members,
    accounts,
    users,
)
DOCUMENT_PATH = "/openapi.json"
_ENCODER = msgspec.json.Encoder(decimal_format="number")


class _ExactJsonProvider(JSONProvider):
    """JSON with every digit, and with JSON texts of the database as they are."""

    def dumps(self, *values: Any, **options: Any) -> str:
        return _ENCODER.encode(values[0]).decode()

    def loads(self, *texts: str | bytes, **options: Any) -> Any:
        return msgspec.json.decode(texts[0])


class _Management(Application):
    json_provider_class = _ExactJsonProvider


class _Api(flask_smorest.Api):
    # Each route lists its problems.
    DEFAULT_ERROR_RESPONSE_NAME = None


def create_management(receivers: Flask) -> Flask:
    """The application of the management API. Opens no connection before the first request."""
    management = _Management("app.api.management.application", static_folder=None)
    management.config.update(
        API_TITLE="Signalbox", API_VERSION=signalbox.__version__, OPENAPI_VERSION=openapi_document.OPENAPI_VERSION
    )
    management.extensions.update(receivers.extensions)
    api = _Api(management)
    # In place of flask-smorest's handlers.
    observation.register(management)
    errors.register(management)
    management.register_error_handler(flask_smorest.exceptions.NotModified, _answer_not_modified)
    management.register_error_handler(SettingsError, _answer_settings_error)
    management.register_error_handler(InvalidDocument, _answer_invalid_document)
    management.before_request(partial(start_limiter_of, receivers))
    management.before_request(_check_texts)
    for module in RESOURCES:
        api.register_blueprint(module.blueprint, url_prefix=PREFIX)
    text = cache(lambda: msgspec.json.encode(openapi_document.build(api.spec)))
    management.add_url_rule(DOCUMENT_PATH, "show_document", lambda: Response(text(), content_type="application/json"))
    # The page in the console shows the same document.
    receivers.extensions["openapi"] = lambda: msgspec.json.decode(text())
    return management


def at_whole_paths(management: Flask, environ: WSGIEnvironment, start_response: StartResponse) -> Any:
    """Call the application with the path that the dispatcher has split: its routes, metrics and document have whole paths."""
    mounted = PREFIX if environ["SCRIPT_NAME"].endswith(PREFIX) else DOCUMENT_PATH
    environ["SCRIPT_NAME"] = environ["SCRIPT_NAME"].removesuffix(mounted)
    environ["PATH_INFO"] = mounted + environ["PATH_INFO"]
    return management(environ, start_response)


def _check_texts() -> None:
    refuse_unstorable((request.path, *(text for pair in request.args.items(multi=True) for text in pair)))


def _answer_not_modified(exc: flask_smorest.exceptions.NotModified) -> Response:
    return Response(status=304)


def _answer_invalid_document(exc: InvalidDocument) -> Response:
    return errors.problem_response(invalid_document(exc.mistakes))


def _answer_settings_error(exc: SettingsError) -> Response:
    return errors.problem_response(Problem(ProblemType.SERVICE_UNAVAILABLE, str(exc)))
