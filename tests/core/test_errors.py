"""The problem types are a contract: a name that was published never changes its meaning."""

from __future__ import annotations

from app.core.errors import ProblemType

PUBLISHED = """
malformed-request 400
malformed-body 400
invalid-api-key 401
invalid-access-token 401
invalid-ticket 401
account-disabled 403
forbidden 403
listener-disabled 403
missing-scope 403
plan-ended 403
account-mismatch 403
not-found 404
method-not-allowed 405
request-timeout 408
conflict 409
precondition-failed 412
body-too-large 413
too-many-events 413
uri-too-long 414
unsupported-content-encoding 415
unsupported-media-type 415
expectation-failed 417
idempotency-key-reused 422
unstorable-value 422
validation-failed 422
precondition-required 428
rate-limit-exceeded 429
headers-too-large 431
internal-error 500
not-implemented 501
service-unavailable 503
unverified-delivery 401
http-version-not-supported 505
"""


def test_published_problem_types_stay() -> None:
    known = {f"{kind.urn.removeprefix('urn:signalbox:')} {kind.status}" for kind in ProblemType}
    assert known == set(PUBLISHED.split("\n")) - {""}


def test_each_status_without_a_type_of_its_own_falls_back_to_its_class() -> None:
    assert ProblemType.of_status(406) is ProblemType.MALFORMED_REQUEST
    assert ProblemType.of_status(502) is ProblemType.INTERNAL_ERROR
