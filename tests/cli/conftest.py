"""The command line that tests of commands share."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from click.testing import Result
from flask import Flask

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
