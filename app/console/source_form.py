"""The forms of a source: the document in a text area, prepared from a preset, and the secrets that it needs."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from flask import request

from app.core.errors import Problem, ProblemType
from app.core.template_names import SECRET_NAME
from app.services import secrets
from app.services.context import AppContext
from app.services.sources import AppliedSource, find_secret_paths
from app.workflows.sources.document import SECRET, check_source
from app.workflows.sources.preset_files import find_preset
from app.workflows.yaml_loader import InvalidDocument, Mistake, read_document

_ANY_SENDER = """\
name: NAME
secrets: ["{{ secrets.SECRET }}"]
region: IN                                        # of phone numbers without a country
verify: {hmac: sha256, header: X-Signature}       # or {shared: {header: X-Token}}, or none: the URL is the proof
map:
  event: "order.{{ body.status }}"
  distinct_id: [body.customer.id, phone]          # the first usable one
  phone: [body.customer.phone]
  data: body
  dedupe: body.id                                 # a repeated delivery is stored once
"""


@dataclass(slots=True)
class SourceForm:
    """A document with what is wrong with it. `needed`: the secrets that it reads and that the account does not have yet, with
    what is wrong with the value given; `known`: those that the account has. `is_refused`: nothing was saved."""

    text: str
    mistakes: Sequence[Mistake] = ()
    error: str = ""
    needed: dict[str, str] = field(default_factory=dict)
    known: Sequence[str] = ()
    is_refused: bool = False

    @property
    def lines(self) -> list[str]:
        """The lines of the text, to show next to mistakes."""
        return self.text.split("\n")

    def check(self, context: AppContext, account_id: int) -> None:
        """Set `mistakes`, `needed` and `known`."""
        document = read_document(self.text)
        self.mistakes = check_source(document)
        names = SECRET.findall(self.text) if self.mistakes else [name for _, name in find_secret_paths(document.value)]
        stored = {one.name for one in secrets.list_secrets(context, account_id)}
        self.known = sorted(stored & set(names))
        self.needed = dict.fromkeys(sorted(set(names) - stored), "")

    def refuse(self, context: AppContext, account_id: int) -> None:
        """Prepare the form to be shown again: what was found wrong stays."""
        mistakes, before, self.is_refused = self.mistakes, self.needed, True
        self.check(context, account_id)
        self.mistakes = mistakes or self.mistakes
        self.needed = {name: before.get(name, "") for name in self.needed}

    def set_secrets(self, context: AppContext, account_id: int) -> bool:
        """Store the values of the form for the secrets that the account lacks; whether it lacks none any more."""
        for name in list(self.needed):
            value = request.form.get(f"secret-{name}", "")
            try:
                if not value:
                    raise Problem(ProblemType.VALIDATION_FAILED, "the value is missing")
                secrets.set_secret(context, account_id, name, value)
                del self.needed[name]
            except Problem as exc:
                self.needed[name] = exc.detail
        return not self.needed


def read_text() -> str:
    """The document in the form, with the line breaks of files."""
    return request.form.get("document", "").replace("\r\n", "\n").replace("\r", "\n")


def submit(
    context: AppContext, account_id: int, form: SourceForm, apply: Callable[[str], AppliedSource]
) -> AppliedSource | None:
    """Check the document, store the secrets of the form, and apply it. None if something is wrong, which `form` then says."""
    try:
        form.check(context, account_id)
        if not form.mistakes and form.set_secrets(context, account_id):
            return apply(form.text)
    except InvalidDocument as exc:
        form.mistakes = exc.mistakes
    except Problem as exc:
        form.error = exc.detail
    form.refuse(context, account_id)
    return None


def prepared_text(provider: str, name: str, secret: str) -> str:
    """A document for a provider (empty: any other sender) with a name and the name of a secret (empty: one like the name)."""
    secret = secret or _secret_name(name)
    if not provider:
        return _ANY_SENDER.replace("NAME", name, 1).replace("SECRET", secret, 1)
    preset = find_preset(provider)
    lines = [f"name: {name}", f"provider: {provider}"]
    if preset.get("verify") != "none":
        lines.append(f'secrets: ["{{{{ secrets.{secret} }}}}"]')
    handshake = preset.get("handshake")
    if isinstance(handshake, Mapping) and "verify_token" in handshake:
        lines.append(f'verify_token: "{{{{ secrets.{secret[:57]}_VERIFY }}}}"')
    return "\n".join(lines) + "\n"


def _secret_name(name: str) -> str:
    """A name of a secret that is like the name of a source."""
    made = re.sub(r"[^A-Z0-9]", "_", name.upper())[:57]
    return made if SECRET_NAME.fullmatch(made) else f"SOURCE_{made}"[:57]
