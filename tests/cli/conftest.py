"""The command line that tests of commands share."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from click.testing import Result
from flask import Flask
from flask.testing import FlaskClient

from app.services.context import AppContext
from tests.support.builders import Sender
from tests.support.http_target import Answer, HttpTarget, an_http_target
from tests.support.shop import Shop

CommandLine = Callable[..., Result]


@pytest.fixture
def signalbox(app: Flask) -> CommandLine:
    """`signalbox(...)` as a person would type it; `typed` is what the person answers."""

    def run(*words: object, typed: str | None = None) -> Result:
        result = app.test_cli_runner().invoke(args=[str(word) for word in words], input=typed)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


@pytest.fixture
def shop(context: AppContext, client: FlaskClient, acme: Sender) -> Shop:
    """An account with the source `shop`."""
    return Shop(context, client, acme)


@pytest.fixture
def broken() -> Iterator[HttpTarget]:
    """A target that answers 500 once and 200 afterwards."""
    with an_http_target(Answer(500, b"out of order"), Answer(200)) as server:
        yield server
