"""The presets of sources: a file of data for each provider in the folder `presets`.

A preset has the sections of a source document (`verify`, `handshake`, `region`, `events`, `map`) and a `description`. A new
preset is one new file; its name is the provider.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from app.workflows.yaml_loader import read_bytes

_FOLDER = files("app") / "workflows" / "sources" / "presets"
_SUFFIX = ".yaml"
NO_PRESET: Mapping[str, Any] = {}
# Other names of presets.
_ALIASES = {"svix": "standard-webhooks"}


@cache
def preset_names() -> tuple[str, ...]:
    """The names of all presets, aliases included."""
    names = (file.name.removesuffix(_SUFFIX) for file in _FOLDER.iterdir() if file.name.endswith(_SUFFIX))
    return tuple(sorted((*names, *_ALIASES)))


@cache
def find_preset(name: str | None) -> Mapping[str, Any]:
    """The sections of a preset; none for an unknown name and for None."""
    if name not in preset_names():
        return NO_PRESET
    document = read_bytes((_FOLDER / f"{_ALIASES.get(str(name), name)}{_SUFFIX}").read_bytes())
    assert isinstance(document.value, dict)
    assert not document.mistakes
    return document.value


def sample_of(name: str) -> bytes:
    """A sample delivery of a preset as a raw HTTP request, without a signature."""
    return (_FOLDER / f"{_ALIASES.get(name, name)}.http").read_bytes()
