"""Who the host is."""

from geniehive.config import NodeConfig
from nodeagent.host import find_address, host_id_of, next_boot_epoch


def test_a_host_without_an_id_has_its_name_made_fit(monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "Anna's Mac")
    assert host_id_of(NodeConfig()) == "Anna-s-Mac"
    assert host_id_of(NodeConfig(host_id="atlas")) == "atlas"


async def test_a_control_plane_on_loopback_makes_a_cluster_of_one_machine():
    assert await find_address(NodeConfig(), ["127.0.0.1:8801"]) == "127.0.0.1"
    assert await find_address(NodeConfig(), ["localhost:8801"]) == "127.0.0.1"


async def test_the_configured_address_wins():
    assert await find_address(NodeConfig(address="gpu.example"), ["127.0.0.1:8801"]) == "gpu.example"


async def test_a_name_that_does_not_resolve_gives_no_address():
    assert await find_address(NodeConfig(), ["nowhere.invalid:8801"]) == ""


def test_a_later_start_has_a_later_epoch_even_if_the_clock_was_set_back(tmp_path):
    state = tmp_path / "state"
    assert next_boot_epoch(state, "a", 1000) == 1000
    assert next_boot_epoch(state, "a", 400) == 1001
    assert next_boot_epoch(state, "b", 400) == 400
    assert next_boot_epoch(state, "a", 5000) == 5000


def test_a_broken_or_unwritable_state_costs_only_the_memory(tmp_path, caplog):
    (tmp_path / "node.json").write_text("{nonsense")
    assert next_boot_epoch(tmp_path, "a", 1000) == 1000
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert next_boot_epoch(blocked, "a", 1000) == 1000
    assert "node.state_dir" in caplog.text
