"""The reference: an empty Flask view that reads its body."""

from flask import Flask, request

app = Flask(__name__)


@app.post("/api/v1/cvf-events")
def view() -> tuple[bytes, int]:
    """Read the body, say yes."""
    request.get_data()
    return b"{}", 200


@app.get("/health")
def health() -> bytes:
    """Up."""
    return b"{}"
