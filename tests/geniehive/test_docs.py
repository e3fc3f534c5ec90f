"""docs/ and README say what the code does."""

import re
from pathlib import Path

import pytest

from geniehive.cli.commands import app
from tests.geniehive import reference

PAGES = [
    "index",
    "install",
    "join",
    "cli",
    "config",
    "errors",
    "access",
    "roles",
    "request",
    "clients",
    "ollama",
    "media",
    "routing",
    "receipts",
    "heartbeat",
    "command",
    "benchmarks",
    "models",
    "probes",
    "performance",
]


@pytest.mark.parametrize("name", ["config.md", "errors.md", "access.md"])
def test_the_generated_parts_follow_the_code(name):
    page = (reference.DOCS / name).read_text(encoding="utf-8")
    assert page == reference.written(name), "run: python -m tests.geniehive.reference"


@pytest.mark.parametrize("name", PAGES)
def test_every_page_is_in_the_index_and_its_links_lead_somewhere(name):
    path = reference.DOCS / f"{name}.md"
    text = path.read_text(encoding="utf-8")
    assert name == "index" or f"({name}.md)" in (reference.DOCS / "index.md").read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (path.parent / link).exists(), link


def test_the_files_that_the_pages_name_exist():
    for name in ("request", "access", "receipts", "heartbeat", "command", "benchmarks", "probes"):
        text = (reference.DOCS / f"{name}.md").read_text(encoding="utf-8")
        named = re.findall(r"`((?:geniehive|gateway|controlplane|nodeagent)/[a-z_/]+\.py)`", text)
        assert named
        assert [file for file in named if not Path(file).exists()] == []


def test_every_command_is_documented():
    text = (reference.DOCS / "cli.md").read_text(encoding="utf-8")
    commands = [command.name or command.callback.__name__ for command in app.registered_commands]
    commands += [group.name for group in app.registered_groups]
    assert [name for name in commands if f"`{name}" not in text] == []


def test_the_first_screen_of_the_readme_has_the_two_commands():
    first_screen = Path("README.md").read_text(encoding="utf-8").splitlines()[:12]
    assert any(line.startswith("make up") for line in first_screen)
    assert any(line.startswith("make test") for line in first_screen)
