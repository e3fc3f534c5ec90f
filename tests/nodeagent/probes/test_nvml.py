"""NVML through a stand-in at the level of pynvml's functions."""

from types import SimpleNamespace

from nodeagent.probes.nvml import open_nvml


class NVMLError(Exception):
    pass


class FakeNvml:
    """Two GPUs as an H100 and a GB10 answer (the second has unified memory: the driver tells no VRAM)."""

    NVMLError = NVMLError
    NVML_TEMPERATURE_GPU = 0

    def __init__(self, gpus=2, driver=True):
        self.count, self.driver, self.lost, self.inits = gpus, driver, set(), 0

    def nvmlInit(self):
        self.inits += 1
        if not self.driver:
            raise NVMLError("Driver Not Loaded")

    def nvmlSystemGetDriverVersion(self):
        return b"580.65.06"

    def nvmlDeviceGetCount(self):
        return self.count

    def nvmlDeviceGetHandleByIndex(self, index):
        return f"GPU-{index}"

    def nvmlDeviceGetHandleByUUID(self, uuid):
        if uuid in self.lost:
            raise NVMLError("GPU is lost")
        return uuid

    def nvmlDeviceGetUUID(self, handle):
        return handle

    def nvmlDeviceGetName(self, handle):
        return "NVIDIA H100 80GB HBM3" if handle == "GPU-0" else "NVIDIA GB10"

    def nvmlDeviceGetMemoryInfo(self, handle):
        if handle == "GPU-1":
            raise NVMLError("Not Supported")
        return SimpleNamespace(total=85899345920, used=1073741824, free=84825604096)

    def nvmlDeviceGetUtilizationRates(self, handle):
        return SimpleNamespace(gpu=37, memory=5)

    def nvmlDeviceGetTemperature(self, handle, sensor):
        return 41

    def nvmlDeviceGetPowerUsage(self, handle):
        return 71234


def test_facts_and_measurements_come_with_their_units():
    probe = open_nvml(FakeNvml)
    first, second = probe.gpus()
    assert (first.index, first.uuid, first.name, first.vendor) == (0, "GPU-0", "NVIDIA H100 80GB HBM3", "nvidia")
    assert (first.vram_total_bytes, first.driver_version) == (85899345920, "580.65.06")
    assert second.vram_total_bytes is None
    seen = probe.observe()[0]
    assert (seen.vram_used_bytes, seen.utilization) == (1073741824, 0.37)
    assert (seen.temperature_celsius, seen.power_watts) == (41.0, 71.234)


def test_what_a_gpu_does_not_support_is_unknown_and_the_rest_is_told():
    seen = open_nvml(FakeNvml).observe()[1]
    assert seen.vram_used_bytes is None
    assert seen.utilization == 0.37


def test_a_gpu_that_falls_off_reads_as_unknown_and_reads_again_when_it_is_back():
    library = FakeNvml()
    probe = open_nvml(lambda: library)
    library.lost.add("GPU-0")
    gone, other = probe.observe()
    assert (gone.index, gone.vram_used_bytes, gone.utilization, gone.power_watts) == (0, None, None, None)
    assert other.utilization == 0.37
    library.lost.clear()
    assert probe.observe()[0].utilization == 0.37


def test_no_library_no_driver_and_no_gpu_are_all_no_gpu():
    def missing():
        raise ModuleNotFoundError("No module named 'pynvml'")

    assert open_nvml(missing) is None
    assert open_nvml(lambda: FakeNvml(driver=False)) is None
    assert open_nvml(lambda: FakeNvml(gpus=0)) is None


def test_the_real_library_is_asked_without_an_error_on_any_host():
    probe = open_nvml()
    assert probe is None or len(probe.observe()) == len(probe.gpus())
