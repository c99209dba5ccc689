"""All kinds of resources are created, read, changed and deleted by id, separately for each tenant."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from app.api import bearer_limit
from app.services.context import AppContext
from app.services.cxengage import crud
from tests.api.cxengage.conftest import Tenant
from tests.support.builders import Sender

TEMPLATE = {"name": "SMS", "description": "to a customer", "template": "Hi {{first-name}}"}
LISTENER = {
    "name": "Shop",
    "description": "orders",
    "type": "shopify",
    "status": False,
    "mapping": {"id": "customer.id", "first": "items.0.id"},
    "options": {"hash": "x", "exact": 1},
}
FILE = {
    "name": "Segments",
    "description": "by customer",
    "type": "file",
    "service": "engine",
    "augment-service": "engine",
}
API = {
    **FILE,
    "name": "CRM",
    "type": "api",
    "options": {"url": "https://crm.example.com/customer", "method": "POST", "attributes": ["a"]},
}
FLAT = {**FILE, "type": "api", "url": "https://crm.example.com/customer", "method": "GET", "attributes": ["a", "b"]}
PATTERN = {
    "name": "Greeting",
    "description": "says hello",
    "status": False,
    "when": '(event (= type "hello"))',
    "then": '(send echo message {:message "Hello"})',
}
KINDS = [
    pytest.param("templates", "TM", TEMPLATE, id="template"),
    pytest.param("listeners", "LI", LISTENER, id="listener"),
    pytest.param("augments", "AU", FILE, id="file"),
    pytest.param("augments", "AU", API, id="api"),
    pytest.param("augments", "AU", FLAT, id="flat-api"),
]
each_kind = pytest.mark.parametrize(("kind", "prefix", "body"), KINDS)


def shown(body: dict[str, Any], id_: str) -> dict[str, Any]:
    return {"id": id_, **{name: value for name, value in body.items() if value is not None}}


@each_kind
def test_a_created_resource_can_be_read(tenant: Tenant, kind: str, prefix: str, body: dict[str, Any]) -> None:
    made = tenant.post(f"/{kind}", body)
    assert made.status_code == 201
    assert {name: made.json[name] for name in shown(body, "")} == shown(body, f"{prefix}1")
    read = tenant.get(f"/{kind}/{prefix}1")
    assert (read.status_code, read.json) == (200, shown(body, f"{prefix}1"))
    assert tenant.get(f"/{kind}").json == [read.json]


@each_kind
def test_a_change_keeps_the_fields_that_it_does_not_name(
    tenant: Tenant, kind: str, prefix: str, body: dict[str, Any]
) -> None:
    tenant.post(f"/{kind}", body)
    changed = tenant.put(f"/{kind}/{prefix}1", {"name": "Another"})
    assert (changed.status_code, changed.json) == (200, shown({**body, "name": "Another"}, f"{prefix}1"))
    assert tenant.get(f"/{kind}/{prefix}1").json == changed.json


@each_kind
def test_a_response_is_a_valid_request(tenant: Tenant, kind: str, prefix: str, body: dict[str, Any]) -> None:
    tenant.post(f"/{kind}", body)
    read = tenant.get(f"/{kind}/{prefix}1").json
    assert tenant.put(f"/{kind}/{prefix}1", read).json == read


@each_kind
def test_ids_are_numbered_and_never_reused(tenant: Tenant, kind: str, prefix: str, body: dict[str, Any]) -> None:
    assert [tenant.post(f"/{kind}", body).json["id"] for _ in range(2)] == [f"{prefix}1", f"{prefix}2"]
    gone = tenant.delete(f"/{kind}/{prefix}2")
    assert (gone.status_code, gone.data) == (204, b"")
    assert tenant.post(f"/{kind}", body).json["id"] == f"{prefix}3"
    assert [one["id"] for one in tenant.get(f"/{kind}").json] == [f"{prefix}1", f"{prefix}3"]


@each_kind
def test_the_id_of_another_tenant_and_a_missing_one_get_the_same_error(
    tenant: Tenant, stranger: Tenant, kind: str, prefix: str, body: dict[str, Any]
) -> None:
    tenant.post(f"/{kind}", body)
    path = f"/{kind}/{prefix}1"
    for method, change in (("GET", None), ("PUT", {"name": "Mine"}), ("DELETE", None)):
        before = stranger.call(method, path, change)
        assert before.status_code == 404
        assert list(before.json) == ["error"]
    assert stranger.get(f"/{kind}").json == []
    assert tenant.get(path).json["name"] == body["name"]


@each_kind
@pytest.mark.parametrize("name", ["1", "XX1", "{}0", "{}01", "{}99", "{}9999999999", "{}1x", "{}"])
def test_an_invalid_id_is_not_found(tenant: Tenant, kind: str, prefix: str, body: dict[str, Any], name: str) -> None:
    tenant.post(f"/{kind}", body)
    assert tenant.get(f"/{kind}/{name.format(prefix)}").status_code in ((404, 405) if name == "" else (404,))


@each_kind
def test_an_unknown_field_is_refused_by_name_or_stored(
    tenant: Tenant, kind: str, prefix: str, body: dict[str, Any]
) -> None:
    answer = tenant.post(f"/{kind}", {**body, "topic": "CxDemo"})
    if kind == "listeners":
        assert answer.json["topic"] == "CxDemo"
        assert tenant.get("/listeners/LI1").json["topic"] == "CxDemo"
    else:
        assert (answer.status_code, answer.json) == (400, {"error": "topic: is unknown"})


@each_kind
def test_the_id_of_a_new_resource_is_ignored(tenant: Tenant, kind: str, prefix: str, body: dict[str, Any]) -> None:
    made = [tenant.post(f"/{kind}", {**body, "id": id_}) for id_ in (f"{prefix}7", "mine", 5, None)]
    assert [(answer.status_code, answer.json.get("id")) for answer in made] == [
        (201, f"{prefix}{number}") for number in (1, 2, 3, 4)
    ]


@each_kind
def test_an_id_cannot_be_changed(tenant: Tenant, kind: str, prefix: str, body: dict[str, Any]) -> None:
    tenant.post(f"/{kind}", body)
    changed = tenant.put(f"/{kind}/{prefix}1", {"id": f"{prefix}7"})
    assert (changed.status_code, changed.json) == (400, {"error": f"id: must be {prefix}1, as in the URL"})


@pytest.mark.parametrize(
    ("kind", "body", "message"),
    [
        ("templates", {}, "name: is required"),
        ("templates", {"name": ""}, "name: must have 1 to 255 characters"),
        ("templates", {"name": 5}, "name: must be text"),
        ("templates", {"name": "x", "template": None}, "template: must be text"),
        ("templates", {"name": "x", "template": "x" * 70_000}, "template: must have at most 65536 characters"),
        ("templates", {"description": 1, "name": None}, "description: must be text; name: must be text"),
        ("listeners", {"name": "x"}, "mapping: is required"),
        ("listeners", {"name": "x", "mapping": {}}, "mapping: has 0 fields; 1 to 200 are allowed"),
        ("listeners", {"name": "x", "mapping": []}, "mapping: must be an object"),
        ("listeners", {"name": "x", "mapping": None}, "mapping: must be an object"),
        ("listeners", {"name": "x", "mapping": {"a": 5}}, "mapping: a must be a dotted path"),
        ("listeners", {"name": "x", "mapping": {"a": "b..c"}}, "mapping: a must be a dotted path"),
        ("listeners", {**LISTENER, "status": "on"}, "status: must be true or false"),
        ("listeners", {**LISTENER, "status": 1}, "status: must be true or false"),
        ("listeners", {**LISTENER, "options": 1}, "options: must be an object"),
        ("listeners", {**LISTENER, "token": "mine"}, "token: cannot be set; POST …/token creates a new token"),
        ("augments", {"name": "x"}, "type: is required"),
        ("augments", {"name": "x", "type": "soap"}, "type: must be file or api"),
        ("augments", {**FILE, "service": "notification"}, "service: must be engine"),
        ("augments", {**FILE, "augment-service": "x"}, "augment-service: must be engine"),
        ("augments", {**FILE, "url": "https://example.com"}, "url: is not allowed for an augment of the type file"),
        ("augments", {**FILE, "type": "api"}, "url: is required"),
        ("augments", {**FILE, "method": "GET"}, "method: is not allowed for an augment of the type file"),
        ("augments", {**FLAT, "method": "PUT"}, "method: must be POST or GET"),
        ("augments", {**API, "method": "GET"}, "method: occurs both inside and outside of options"),
        ("augments", {**API, "url": "https://example.com"}, "url: occurs both inside and outside of options"),
        ("augments", {**API, "options": {"url": "hostname"}}, "options.url: must be a URL such as"),
        (
            "augments",
            {**FLAT, "url": "https://me:secret@example.com/"},
            "url: must not contain a user name or a password",
        ),
        ("augments", {**FLAT, "url": "https://example.com:0/"}, "url: must be a URL such as"),
        ("augments", {**FLAT, "url": "https://[::1/"}, "url: must be a URL such as"),
        ("augments", {**API, "options": {"colour": 1}}, "options.colour: is unknown"),
        ("augments", {**FLAT, "attributes": []}, "attributes: must have 1 to 200 names"),
        ("augments", {**FLAT, "attributes": ["a", 5]}, "attributes[1]: must be text"),
        ("augments", {**FLAT, "attributes": "a"}, "attributes: must be a list of names"),
    ],
)
def test_invalid_fields_are_reported(tenant: Tenant, kind: str, body: dict[str, Any], message: str) -> None:
    answer = tenant.post(f"/{kind}", body)
    assert answer.status_code == 400
    assert answer.json["error"].startswith(message)
    assert tenant.get(f"/{kind}").json == []


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("Hi {{#vip}}", "template, line 1, column 4: "),
        ("Hi\n  {{/vip}}", "template, line 2, column 3: "),
        ("Hi {{name", "template, line 1, column 4: "),
        ("{{> part}}", "template, line 1, column "),
    ],
)
def test_a_template_with_a_syntax_error_is_refused_with_the_position(tenant: Tenant, text: str, position: str) -> None:
    tenant.post("/templates", TEMPLATE)
    for answer in (
        tenant.post("/templates", {"name": "x", "template": text}),
        tenant.put("/templates/TM1", {"template": text}),
    ):
        assert answer.status_code == 400
        assert answer.json["error"].startswith(position)
    assert tenant.get("/templates").json == [shown(TEMPLATE, "TM1")]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"{", "line 1, column 2"),
        (b"[]", "The top level is an array"),
        (b'{"name": "a", "name": "b"}', "name appears twice"),
        (b'{"name": "\\u0000"}', "NUL"),
        (b"\xff", "not UTF-8"),
    ],
)
def test_a_malformed_body_is_refused(tenant: Tenant, raw: bytes, message: str) -> None:
    answer = tenant.post("/templates", raw)
    assert answer.status_code == 400
    assert message in answer.json["error"]


def test_another_media_type_is_refused(tenant: Tenant) -> None:
    answer = tenant.post("/templates", b"name=x", headers={"Content-Type": "application/x-www-form-urlencoded"})
    assert answer.status_code == 415
    assert list(answer.json) == ["error"]


def test_a_key_without_the_scope_is_refused(sender: Sender) -> None:
    answer = sender.client.open(
        f"/1.0/tenants/{sender.slug}/templates", headers={"Authorization": f"Bearer {sender.token}"}
    )
    assert answer.status_code == 403
    assert "account:manage" in answer.json["error"]


def test_the_routes_of_another_tenant_are_refused(tenant: Tenant, stranger: Tenant) -> None:
    answer = tenant.call("GET", "/templates", prefix=f"/1.0/tenants/{stranger.slug}")
    assert answer.status_code == 403


def test_concurrently_created_resources_get_different_ids(tenant: Tenant) -> None:
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda _: tenant.post("/listeners", LISTENER), range(16)))
    assert {answer.json["id"] for answer in made} == {f"LI{number}" for number in range(1, 17)}


def test_requests_per_minute_are_limited(tenant: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bearer_limit, "MAX_PER_MINUTE", 0)
    answer = tenant.get("/templates")
    assert (answer.status_code, answer.json) == (429, {"error": "Exceeded rate limit"})
    assert answer.headers["Retry-After"] == "60"


def test_the_number_of_resources_is_limited(
    tenant: Tenant, context: AppContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crud, "MAX_PER_KIND", 2)
    assert [tenant.post("/templates", TEMPLATE).status_code for _ in range(3)] == [201, 201, 400]
    assert len(tenant.get("/templates").json) == 2


def test_an_account_has_fewer_augments(tenant: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crud, "MAX_AUGMENTS", 1)
    assert [tenant.post("/augments", FILE).status_code for _ in range(2)] == [201, 400]
    assert tenant.post("/augments", FILE).json == {"error": "there are 1 augments, the maximum; delete some first"}
