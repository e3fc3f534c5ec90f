"""docs/faults.md is true: every number is there, and names tests and rows of the table that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.gateway.misbehaviour import ANSWERS, STREAMS

TESTS = Path(__file__).parents[1]
PAGE = (Path(__file__).parents[3] / "docs" / "faults.md").read_text(encoding="utf-8")
NUMBERS = [*(f"1.{number}" for number in range(1, 16)), *(f"2.{number}" for number in range(1, 20))]
ROWS = {line.split("|")[1].strip(): line.split("|")[4] for line in PAGE.splitlines() if line.startswith("| ")}
_TEST = re.compile(r"`(test_\w+)\.(test_\w+)`")
_ROW = re.compile(r'"([^"]+)"')


@pytest.fixture(scope="module")
def known():
    """The tests of the gateway, as module and function."""
    return {
        (path.stem, node.name)
        for path in TESTS.rglob("test_*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


@pytest.mark.parametrize("number", NUMBERS)
def test_each_fault_names_what_proves_it(number, known):
    tests, rows = _TEST.findall(ROWS[number]), _ROW.findall(ROWS[number])
    assert tests or rows
    assert set(tests) <= known
    assert set(rows) <= ANSWERS.keys() | STREAMS.keys()


def test_each_row_of_the_table_is_named():
    named = {name for row in ROWS.values() for name in _ROW.findall(row)}
    unnamed = (ANSWERS.keys() | STREAMS.keys()) - named
    assert not unnamed, sorted(unnamed)
