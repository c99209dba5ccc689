"""The token of a source is in no log and in no metric, whatever is answered."""

from __future__ import annotations

import pytest

from app.services.context import AppContext
from tests.api.conftest import settings_of
from tests.support.builders import a_sender
from tests.support.server import running_server
from tests.support.sources import a_source, an_order


@pytest.mark.parametrize("log_format", ["json", "text"])
def test_the_token_of_a_source_is_in_no_log_and_no_metric(context: AppContext, log_format: str) -> None:
    settings = settings_of(context) | {"ACCESS_LOG": "1", "LOG_LEVEL": "debug", "LOG_FORMAT": log_format}
    with running_server(**settings) as server:
        sender = a_sender(context, server)
        source = a_source(context, server, sender.account_id)
        without_secret = a_source(context, server, sender.account_id, name="poor", secrets=["{{ secrets.NONE }}"])
        statuses = [
            source.post(an_order(1)).status_code,
            source.post(an_order(1), secret="another").status_code,
            source.post(b"x" * 6 * 1024 * 1024).status_code,
            without_secret.post(an_order(1)).status_code,
            server.open(f"/hooks/{source.token}", method="PUT").status_code,
            server.open(f"/hooks/{source.token}").status_code,
            server.open(f"/hooks/{source.token}/more").status_code,
        ]
        assert statuses == [200, 401, 413, 503, 405, 200, 404]
        metrics = server.open("/metrics").text
        assert "/hooks/<token>" in server.output()
        for token in (source.token, without_secret.token):
            assert token not in server.output()
            assert token[10:30] not in server.output()
            assert token not in metrics
