"""A log line is one line, shows no control character and no secret."""

import json
import logging

import pytest

from geniehive.telemetry import JsonFormatter, LineFormatter, configure_logging


def _record(message, *args):
    return logging.LogRecord("gateway.http", logging.INFO, __file__, 1, message, args, None)


def test_line_ends_and_ansi_are_escaped():
    line = LineFormatter("gateway").format(_record("model %s", "a\r\nfake line\x1b[31m"))
    assert "\n" not in line
    assert "\x1b" not in line
    assert r"a\r\nfake line\x1b[31m" in line


@pytest.mark.parametrize("secret", ["Bearer sk-abc", "X-Api-Key: sk-abc", "'x-geniehive-node-key': 'sk-abc'"])
def test_what_follows_a_credentials_name_is_blotted_out(secret):
    line = LineFormatter("gateway").format(_record("headers %s", secret))
    assert "sk-abc" not in line
    assert "***" in line


def test_json_lines_are_json():
    line = json.loads(JsonFormatter("node").format(_record("a\nb")))
    assert line["component"] == "node"
    assert line["message"] == r"a\nb"


def test_a_trace_stays_on_one_line():
    try:
        raise ValueError("x\ny")
    except ValueError as error:
        record = _record("failed")
        record.exc_info = (type(error), error, error.__traceback__)
    assert "\n" not in LineFormatter("node").format(record)


def test_a_wrong_level_names_the_right_ones():
    with pytest.raises(ValueError, match="debug, info, warning or error"):
        configure_logging("node", "loud")
