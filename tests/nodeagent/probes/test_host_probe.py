"""All probes together, on this host and with made-up GPUs."""

import json
import subprocess
import sys
from types import SimpleNamespace

from geniehive.resources import Gpu, GpuObserved, HostFacts
from nodeagent.host import device_class_of
from nodeagent.probes.apple import open_apple
from nodeagent.probes.cpu import CpuProbe, cpu_model_of
from nodeagent.probes.host_probe import HostProbe, basic_facts


class Fake:
    def __init__(self, vendor, count):
        self._gpus = tuple(Gpu(index=index, vendor=vendor) for index in range(count))

    def gpus(self):
        return self._gpus

    def observe(self):
        return tuple(GpuObserved(index=gpu.index, utilization=0.5) for gpu in self._gpus)


def test_gpus_of_all_vendors_are_numbered_through_in_facts_and_measurements():
    probe = HostProbe([Fake("nvidia", 2), Fake("amd", 1)])
    assert [(gpu.index, gpu.vendor) for gpu in probe.facts().gpus] == [(0, "nvidia"), (1, "nvidia"), (2, "amd")]
    assert [one.index for one in probe.observe().gpus] == [0, 1, 2]


def test_this_host_has_a_name_cpus_and_ram():
    facts = basic_facts()
    assert facts.hostname
    assert facts.os in {"linux", "darwin", "windows"}
    assert facts.cpu_count >= 1
    seen = HostProbe([]).observe()
    assert 0 < seen.ram_available_bytes <= facts.ram_total_bytes
    assert seen.gpus == ()


def test_cpu_use_is_unknown_until_enough_time_has_passed_and_then_a_share():
    assert CpuProbe().utilization() is None
    probe = CpuProbe()
    probe._before = (0.0, 0.0)
    assert 0 <= probe.utilization() <= 1


def test_the_name_of_the_cpu_is_read_on_x86_and_on_a_raspberry_pi():
    assert cpu_model_of("processor\t: 0\nmodel name\t: AMD Ryzen 9 7950X\nmodel name\t: other\n") == "AMD Ryzen 9 7950X"
    assert (
        cpu_model_of("processor\t: 0\n\nModel\t\t: Raspberry Pi 5 Model B Rev 1.0\n")
        == "Raspberry Pi 5 Model B Rev 1.0"
    )
    assert cpu_model_of("") == ""


def test_apple_silicon_is_one_gpu_with_the_machines_memory():
    memory = SimpleNamespace(total=64, available=40)
    probe = open_apple("Darwin", "arm64", "Apple M3 Max", lambda: memory)
    assert probe.gpus() == (Gpu(index=0, name="Apple M3 Max", vendor="apple", vram_total_bytes=64),)
    assert probe.observe() == (GpuObserved(index=0, vram_used_bytes=24),)
    assert open_apple("Linux", "arm64", "", lambda: memory) is None
    assert open_apple("Darwin", "x86_64", "", lambda: memory) is None


def test_the_class_of_a_device_follows_from_its_gpus():
    def of(*gpus):
        return device_class_of(HostFacts(gpus=gpus))

    assert of() == "cpu"
    assert of(Gpu(index=0, vendor="amd", vram_total_bytes=512 * 2**20)) == "cpu"
    assert of(Gpu(index=0, vendor="amd", vram_total_bytes=24 * 2**30)) == "gpu"
    assert of(Gpu(index=0, vendor="nvidia")) == "gpu"
    assert of(Gpu(index=0, vendor="apple", vram_total_bytes=2**34)) == "apple"


def test_the_probes_print_what_they_see():
    done = subprocess.run([sys.executable, "-m", "nodeagent.probes"], capture_output=True, check=True)
    data = json.loads(done.stdout)
    assert data["facts"]["hostname"]
    assert data["observed"]["ram_available_bytes"] > 0
