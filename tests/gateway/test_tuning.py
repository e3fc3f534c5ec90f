"""What a gateway asks of the system: open files above all."""

import logging
import math
import resource
import subprocess
import sys

import pytest

from gateway import run, tuning
from geniehive.config import Config, GatewayConfig


@pytest.mark.parametrize("limits", ["(256, 512)", "(512, 512)"])
def test_the_limit_of_open_files_is_raised_as_far_as_the_system_lets_it(limits):
    code = (
        "import resource, gateway.tuning\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, {limits})\n"
        "gateway.tuning.allow_files()\n"
        "print(gateway.tuning.open_files(), resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "512 (512, 512)"


def test_a_system_that_calls_its_limit_none_gives_what_it_takes(monkeypatch):
    now = [256, resource.RLIM_INFINITY]

    def only_so_many(_what, limits):
        if limits[0] == resource.RLIM_INFINITY or limits[0] > 12_288:
            raise ValueError("not that many")
        now[:] = limits

    monkeypatch.setattr(resource, "getrlimit", lambda _what: tuple(now))
    monkeypatch.setattr(resource, "setrlimit", only_so_many)
    tuning.allow_files()
    assert tuning.open_files() == 10_240


def test_two_sockets_for_each_connection_are_enough():
    assert tuning.too_few(1000, 2 * 1000 + tuning.OWN_FILES) is None
    assert tuning.too_few(10**9, math.inf) is None
    assert tuning.affordable(1000, math.inf) == 1000


def test_too_few_files_are_told_with_the_fix():
    said = tuning.too_few(10_000, 2000 + tuning.OWN_FILES)
    assert "each worker lets 1000 clients connect and not 10000" in said
    assert "LimitNOFILE=" in said
    assert f"allow {20_000 + tuning.OWN_FILES}" in said
    assert "set gateway.max_connections to 1000" in said


def test_there_is_always_one_who_may_connect():
    assert tuning.affordable(10, 20) == 1


@pytest.mark.parametrize(("files", "lines"), [(1000, 1), (10**6, 0)])
async def test_the_gateway_says_at_its_start_that_files_are_too_few(monkeypatch, caplog, files, lines):
    async def served(_config, *, stop, ready):
        ready("http://127.0.0.1:1")

    monkeypatch.setattr(run, "open_files", lambda: files)
    monkeypatch.setattr(run, "run_workers", served)
    told = []
    with caplog.at_level(logging.WARNING):
        await run.run(Config(gateway=GatewayConfig(workers=2)), stop=None, ready=told.append)
    assert len([each for each in caplog.records if "open files" in each.message]) == lines
