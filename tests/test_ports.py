"""Ports for tests: nobody gets one twice, in this process or in another."""

from __future__ import annotations

import socket
import subprocess
import sys

from tests.ports import BLOCK, END, FIRST, free_ports, free_run
from tests.tools import ROOT


def test_a_port_is_given_once_here_and_to_no_other_process_that_lives() -> None:
    code = (
        "import random, sys; from tests.ports import free_ports\n"
        "random.shuffle = lambda blocks: None  # both want the same ones\n"
        "print(*free_ports(60), flush=True); sys.stdin.read()"
    )
    others = [
        subprocess.Popen(
            [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    try:
        ports = free_ports(60)
        for each in others:
            assert each.stdout is not None
            ports += map(int, each.stdout.readline().split())
    finally:
        for each in others:
            each.communicate()
    assert len(set(ports)) == len(ports) == 180
    assert FIRST <= min(ports) <= max(ports) < END


def test_a_run_is_free_from_its_first_to_its_last_wherever_a_block_ends() -> None:
    for _ in range(BLOCK):
        first = free_run(3)
        for port in range(first, first + 3):
            with socket.create_server(("127.0.0.1", port)):
                pass
