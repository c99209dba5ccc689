"""The console in Debian's Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal
from urllib.parse import urlsplit

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

from app.services.context import AppContext
from tests.support.console import PASSWORD
from tests.support.server import Server, clean_environment, running_server

_CHROMIUM = "/usr/bin/chromium"
_ARGUMENTS = ("--no-sandbox", "--disable-background-networking", "--disable-component-update")
# Milliseconds; a busy machine needs long.
_PATIENT = 30_000
_AXE = Axe().axe_script
Scheme = Literal["light", "dark"]


@contextmanager
def a_chromium(*more_arguments: str) -> Iterator[Browser]:
    """A browser without a window."""
    arguments = [*_ARGUMENTS, *more_arguments]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_CHROMIUM, args=arguments, env=clean_environment())
        yield browser
        browser.close()


@contextmanager
def a_console_server(context: AppContext, **settings: str) -> Iterator[Server]:
    """gunicorn, as `make run` starts it, with the database and the keys of a context."""
    keys = ",".join(context.settings.encryption_keys)
    with running_server(DATABASE_URL=context.settings.database_url, ENCRYPTION_KEY=keys, **settings) as running:
        yield running


class Walk:
    """A page of a browser that notes everything that must not happen."""

    def __init__(
        self, chromium: Browser, server: Server, scheme: Scheme = "light", width: int = 1200, **options: Any
    ) -> None:
        self.url = f"http://127.0.0.1:{server.port}/console"
        self._context = chromium.new_context(color_scheme=scheme, viewport={"width": width, "height": 900}, **options)
        self._context.set_default_timeout(_PATIENT)
        self.page: Page = self._context.new_page()
        self.faults: list[str] = []
        self.page.on("console", self._note)
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("requestfailed", lambda request: self.faults.append(f"{request.url}: {request.failure}"))
        self.page.on("request", lambda request: self._check_host(request.url, server.port))

    def _note(self, message: ConsoleMessage) -> None:
        # Chromium's advice, such as a user name beside each password, is for developers.
        if not message.text.startswith("[DOM]"):
            self.faults.append(message.text)

    def _check_host(self, url: str, port: int) -> None:
        if not url.startswith("data:") and urlsplit(url).netloc != f"127.0.0.1:{port}":
            self.faults.append(f"asks another host: {url}")

    def sign_in(self, email: str) -> None:
        self.page.goto(f"{self.url}/")
        self.page.fill("#email", email)
        self.page.fill("#password", PASSWORD)
        self.follow("#submit")

    def follow(self, selector: str) -> None:
        """Click, and wait for the page to which that leads."""
        with self.page.expect_navigation():
            self.page.locator(selector).first.click()

    def check(self) -> None:
        """No fault so far, no serious problem for axe-core, nothing outside of the page."""
        self.check_layout()
        self.check_with_axe()

    def check_with_axe(self) -> None:
        """No serious problem for axe-core."""
        # Half a megabyte: once for each page that is loaded.
        if not self.page.evaluate("'axe' in window"):
            self.page.evaluate(_AXE)
        found = self.page.evaluate("axe.run({ resultTypes: ['violations'] }).then((results) => results.violations)")
        serious = [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")]
        assert serious == [], self.page.url

    def check_layout(self) -> None:
        """No fault so far, nothing wider than the window, nothing below the footer."""
        assert self.faults == [], self.page.url
        assert self.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), self.page.url
        end = "document.querySelector('footer').getBoundingClientRect().bottom + scrollY + 1"
        assert self.page.evaluate(f"document.documentElement.scrollHeight <= Math.max(innerHeight, {end})"), (
            self.page.url
        )

    def close(self) -> None:
        self._context.close()
