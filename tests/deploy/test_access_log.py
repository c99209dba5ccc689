"""The access log that deploy/nginx.conf offers has no token of a source or of a listener."""

from __future__ import annotations

import tempfile
from pathlib import Path

from bench.servers import nginx
from tests.deploy.test_serving import get, respond
from tests.support.gunicorn import running_gunicorn

TOKEN = "abcdefghijmnopqtuvwxyzABCDEFGHIJ"
# The last line is a comment in the file: it takes the place of the first.
COMMENTED, OFF = "# access_log /var/log/nginx/access.log without_tokens;", "access_log off;"


def test_the_access_log_of_nginx_has_no_tokens() -> None:
    with tempfile.TemporaryDirectory() as name, running_gunicorn(Path(name)) as server:
        folder = Path(name)
        folder.chmod(0o755)
        log = folder / "access.log"
        changes = {OFF: "", COMMENTED: f"access_log {log} without_tokens;"}
        with nginx(folder, server.port, changes) as port:
            for path in (f"/hooks/{TOKEN}", f"//hooks/{TOKEN}?a=b", f"/x/../hooks/{TOKEN}/more", f"/Hooks/{TOKEN}"):
                respond(port, get(path))
            respond(port, get("/" + "x" * 40_000 + TOKEN))
            respond(port, get(f"/hooks%2F{TOKEN}"))
            respond(port, get(f"/hooks/{TOKEN}", "Transfer-Encoding: gzip", method="POST"))
            respond(
                port, get(f"/1.0/tenants/tea/listeners/LI1/receive?token={TOKEN}", "Content-Length: 0", method="POST")
            )
            respond(port, get("/livez"))
        lines = log.read_text().splitlines()
    assert len(lines) == 9
    assert not [line for line in lines if TOKEN in line]
    assert ["/hooks/***" in line for line in lines][:4] == [True] * 4
    # nginx may write the line of an earlier request later.
    for wanted in ('"POST /1.0/tenants/tea/listeners/LI1/receive" ', '"GET /livez" '):
        assert len([line for line in lines if wanted in line]) == 1
