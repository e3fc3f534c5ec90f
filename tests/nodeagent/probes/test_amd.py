"""AMD's sysfs files, as the kernel documents them, in a made-up tree."""

import pytest

from nodeagent.probes.amd import open_amd


@pytest.fixture
def drm(tmp_path):
    card = tmp_path / "card1" / "device"
    sensors = card / "hwmon" / "hwmon3"
    sensors.mkdir(parents=True)
    files = {
        "vendor": "0x1002\n",
        "device": "0x744c\n",
        "unique_id": "1a2b3c4d5e6f7081\n",
        "product_name": "AMD Radeon RX 7900 XTX\n",
        "mem_info_vram_total": "25753026560\n",
        "mem_info_vram_used": "1234567168\n",
        "gpu_busy_percent": "42\n",
    }
    for name, text in files.items():
        (card / name).write_text(text)
    (sensors / "temp1_input").write_text("51000\n")
    (sensors / "power1_average").write_text("84000000\n")
    (tmp_path / "card1-DP-1").mkdir()
    intel = tmp_path / "card0" / "device"
    intel.mkdir(parents=True)
    (intel / "vendor").write_text("0x8086\n")
    return tmp_path


def test_an_amd_card_is_told_with_its_units_and_others_are_not(drm):
    probe = open_amd(drm)
    (gpu,) = probe.gpus()
    assert (gpu.index, gpu.uuid, gpu.name) == (0, "1a2b3c4d5e6f7081", "AMD Radeon RX 7900 XTX")
    assert (gpu.vendor, gpu.vram_total_bytes) == ("amd", 25753026560)
    (seen,) = probe.observe()
    assert (seen.vram_used_bytes, seen.utilization) == (1234567168, 0.42)
    assert (seen.temperature_celsius, seen.power_watts) == (51.0, 84.0)


def test_files_that_are_missing_or_senseless_are_unknown(drm):
    device = drm / "card1" / "device"
    for name in ("gpu_busy_percent", "product_name", "unique_id"):
        (device / name).unlink()
    (device / "mem_info_vram_used").write_text("-1\n")
    (device / "uevent").write_text("DRIVER=amdgpu\nPCI_SLOT_NAME=0000:03:00.0\n")
    (device / "hwmon" / "hwmon3" / "power1_average").rename(device / "hwmon" / "hwmon3" / "power1_input")
    probe = open_amd(drm)
    (gpu,) = probe.gpus()
    assert (gpu.name, gpu.uuid) == ("AMD GPU 0x744c", "0000:03:00.0")
    (seen,) = probe.observe()
    assert (seen.utilization, seen.vram_used_bytes, seen.power_watts) == (None, None, 84.0)


def test_a_card_that_went_away_is_unknown(drm):
    probe = open_amd(drm)
    (drm / "card1").rename(drm / "gone")
    (seen,) = probe.observe()
    assert (seen.index, seen.vram_used_bytes, seen.temperature_celsius) == (0, None, None)


def test_a_host_without_amd_cards_or_without_sysfs_has_none(tmp_path):
    assert open_amd(tmp_path) is None
    assert open_amd(tmp_path / "nowhere") is None
