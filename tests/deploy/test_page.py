"""docs/deploying.md: its blocks are valid shell, are what `make deploy-check` runs, and name files that exist."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.support.deploying_page import FOLLOWED, PAGE, ROOT, Block, followed_blocks, read_blocks

BLOCKS = read_blocks(PAGE.read_text("utf-8"))
INSTALLED = "/srv/signalbox/current/"


@pytest.mark.parametrize("block", BLOCKS, ids=[f"line {block.line}" for block in BLOCKS])
def test_a_block_is_valid_shell(block: Block) -> None:
    done = subprocess.run(["bash", "-n"], input=block.text, text=True, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_section_that_is_followed_has_blocks() -> None:
    assert {block.section for block in followed_blocks()} == set(FOLLOWED)


def test_the_walk_through_has_a_block_for_each_of_its_steps() -> None:
    walk = PAGE.read_text("utf-8").partition("## From an empty machine\n")[2].partition("\n## ")[0]
    steps = re.findall(r"^### \d+\. .+$", walk, re.MULTILINE)
    assert len(steps) == len([block for block in BLOCKS if block.section == "From an empty machine"])


def test_the_files_that_blocks_copy_exist() -> None:
    text = "".join(block.text for block in BLOCKS)
    names = re.findall(rf"(?:{INSTALLED}|install -m \d+ )(deploy/[\w./@-]+)", text)
    assert {"deploy/signalbox", "deploy/systemd/", "deploy/nginx.conf"} <= set(names)
    assert [name for name in names if not (ROOT / name).exists()] == []


def test_the_settings_of_the_page_are_settings() -> None:
    documented = (ROOT / "docs" / "settings.md").read_text("utf-8")
    text = "".join(block.text for block in BLOCKS)
    files = re.findall(r"cat >/etc/signalbox/\w+ <<END\n(.*?)END\n", text, re.DOTALL)
    names = {name for file in files for name in re.findall(r"^([A-Z_]+)=", file, re.MULTILINE)}
    assert {"DATABASE_URL", "REDIS_URL", "ENCRYPTION_KEY", "TRUSTED_PROXIES"} <= names
    assert [name for name in names if f"| `{name}` |" not in documented] == []


@pytest.mark.parametrize("section", ["Upgrading", "Rolling back"])
def test_a_change_of_release_installs_what_belongs_to_it_and_restarts_all(section: str) -> None:
    text = "".join(block.text for block in BLOCKS if block.section == section)
    steps = [
        r"install -m 0755 \S*deploy/signalbox /usr/local/bin/signalbox\n",
        r"install -m 0644 \S*deploy/systemd/\* /etc/systemd/system/\nsystemctl daemon-reload\n",
        r"systemctl restart signalbox-web@1\nsystemctl restart signalbox-web@2\nsystemctl restart 'signalbox-worker@\*'\n",
    ]
    found = [match and match.start() for match in (re.search(step, text) for step in steps)]
    assert None not in found
    assert found == sorted(found)


def test_the_units_that_the_page_starts_exist() -> None:
    text = "".join(block.text for block in BLOCKS)
    units = set(re.findall(r"\b(signalbox[\w-]*(?:@\d|\.socket))", text))
    files = {file.name for file in (ROOT / "deploy" / "systemd").iterdir()}
    assert {re.sub(r"@\d$", "@.service", unit) for unit in units} == files
