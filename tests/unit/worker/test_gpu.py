"""GPU statistics: real ctypes calls of the unmodified nvidia-ml-py into a fake libnvidia-ml."""

from __future__ import annotations

import ctypes
import ctypes.util
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.pool import Pool
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.nvml import compile_fake

from fasttrack.worker.gpu import GpuSampler, find_initialised_cuda

GIB = 2**30
GPUS = {
    "count": 2,
    "0.uuid": "GPU-aaaa1111-0000-0000-0000-000000000000",
    "0.util": 37,
    "0.used": 3 * GIB,
    "0.reserved": GIB,
    "0.temp": 41,
    "0.power": 250_500,
    "1.uuid": "GPU-bbbb2222-0000-0000-0000-000000000000",
    "1.util": 90,
    "1.used": 5 * GIB,
    "1.temp": 71,
    "1.power": 400_000,
    "2.uuid": "MIG-cccc3333-0000-0000-0000-000000000000",
    "2.parent": 1,
    "2.used": 2 * GIB,
}
NOT_SUPPORTED, GPU_IS_LOST = 3, 15
FIRST = {
    "gpu/utilization": 37.0,
    "gpu/memory_used_gb": 3.0,
    "gpu/memory_peak_gb": 3.0,
    "gpu/temperature": 41.0,
    "gpu/power_w": 250.5,
}

# One step of a play: sample this device (int, None), change the state file (dict), close ("close")
# or have this process use CUDA with these GPUs (list of UUIDs, in CUDA's order).
Step = int | None | dict[str, Any] | str | list[str]
Play = Callable[..., tuple[list[dict[str, float]], list[str]]]


class StandInCuda:
    """Stands for an initialised `torch.cuda`, which no machine without a GPU has."""

    def __init__(self, uuids: list[str]) -> None:
        """Take the UUIDs in CUDA's order, without "GPU-", as torch prints them."""
        self.uuids = uuids

    def device_count(self) -> int:
        """Return how many GPUs CUDA sees."""
        return len(self.uuids)

    def get_device_properties(self, index: int) -> SimpleNamespace:
        """Return the one property that is read."""
        return SimpleNamespace(uuid=self.uuids[index])

    def max_memory_allocated(self, index: int) -> int:
        """Return a peak that tells the devices apart."""
        return (index + 10) * GIB

    def memory_reserved(self, index: int) -> int:
        """Return memory on the last device only, as for the last local rank."""
        return GIB if index == len(self.uuids) - 1 else 0


def play_in_child(
    library: Path | None, state: Path, environment: Mapping[str, str], steps: list[Step]
) -> tuple[list[dict[str, float]], list[str]]:
    """Play the steps on one sampler; return what the samples gave and what was said."""
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    os.environ.update(environment, FAKE_NVML_STATE=str(state))
    if library:
        ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)  # its SONAME answers every later dlopen
    rows: list[dict[str, float]] = []
    said: list[str] = []
    now = dict(GPUS)
    cuda: StandInCuda | None = None
    sampler = GpuSampler(said.append, lambda: cuda or find_initialised_cuda())
    for step in [{}, *steps]:
        if isinstance(step, dict):
            now |= step
            state.write_text("".join(f"{key} {value}\n" for key, value in now.items()))
        elif isinstance(step, list):
            cuda = StandInCuda(step)
        elif step == "close":
            sampler.close()
        else:
            assert not isinstance(step, str)
            rows.append(sampler.sample(step))
    return rows, said


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that compiles the fake library."""
    return lambda *flags: compile_fake(tmp_path_factory.mktemp("nvml"), *flags)


@pytest.fixture(scope="session")
def library(build: Callable[..., Path]) -> Path:
    """Return the fake library of a current driver."""
    return build()


@pytest.fixture(scope="module")
def children() -> Iterator[Pool]:
    """Return a pool of one-task processes: a library once loaded stays in its process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch"])  # imported once, not once per test
    with context.Pool(1, maxtasksperchild=1) as pool:
        yield pool


@pytest.fixture
def play(children: Pool, tmp_path: Path) -> Play:
    """Return a function that plays steps in a process of its own."""

    def run(library: Path | None, *steps: Step, **environment: str) -> Any:
        task = (library, tmp_path / "state", environment, list(steps))
        return children.apply_async(play_in_child, task).get(timeout=120)

    return run


def test_every_field_is_read_in_its_unit(play: Play, library: Path) -> None:
    """Percent, GB of 2**30 without the driver's reserve, Celsius, watts."""
    rows, said = play(library, 0)

    assert rows == [FIRST]
    assert said == []


def test_unknown_device_is_the_first_before_cuda_is_in_use(play: Play, library: Path) -> None:
    """None asks for the GPU that the process computes on."""
    rows, _ = play(library, None)

    assert rows == [FIRST]


def test_values_follow_the_device_and_the_peak_stays(play: Play, library: Path) -> None:
    """Without CUDA the peak is the largest memory in use that a sample has seen."""
    rows, _ = play(library, 0, {"0.used": 7 * GIB, "0.temp": 55}, 0, {"0.used": GIB}, 0)

    assert [row["gpu/memory_used_gb"] for row in rows] == [3.0, 7.0, 1.0]
    assert [row["gpu/memory_peak_gb"] for row in rows] == [3.0, 7.0, 7.0]
    assert [row["gpu/temperature"] for row in rows] == [41.0, 55.0, 55.0]


@pytest.mark.parametrize(
    "visible",
    ["1", "1,0", "GPU-bbbb2222-0000-0000-0000-000000000000", "GPU-bbbb", " 1 , 0"],
)
def test_visible_devices_choose_the_gpu(play: Play, library: Path, visible: str) -> None:
    """Torch's device 0 is the first entry, which NVML's own index knows nothing of."""
    rows, said = play(library, 0, CUDA_VISIBLE_DEVICES=visible)

    assert rows[0]["gpu/utilization"] == 90.0
    assert rows[0]["gpu/memory_used_gb"] == 5.0
    assert said == []


@pytest.mark.parametrize("visible", ["", "-1", "NoDevFiles", "-1,0", "GPU-dddd", "GPU-"])
def test_hidden_devices_are_not_read(play: Play, library: Path, visible: str) -> None:
    """Whoever hides the GPUs gets no numbers of someone else's, and no message."""
    rows, said = play(library, 0, 0, 0, 0, CUDA_VISIBLE_DEVICES=visible)

    assert rows == [{}] * 4
    assert said == []


def test_mig_instance_has_its_own_memory_and_the_boards_temperature(
    play: Play, library: Path
) -> None:
    """Utilization does not exist per instance; that is said once."""
    rows, said = play(library, 0, 0, 0, 0, CUDA_VISIBLE_DEVICES=str(GPUS["2.uuid"]))

    assert rows[3] == {
        "gpu/memory_used_gb": 2.0,
        "gpu/memory_peak_gb": 2.0,
        "gpu/temperature": 71.0,
        "gpu/power_w": 400.0,
    }
    assert said == [
        "GPU statistics: utilization is not available on this device (Not Supported); "
        "no longer asked"
    ]


def test_field_that_fails_three_times_is_dropped_and_said_once(play: Play, library: Path) -> None:
    """The other fields go on, and the dropped one stays dropped."""
    broken = {"fail.nvmlDeviceGetPowerUsage": NOT_SUPPORTED}
    rows, said = play(library, broken, 0, 0, 0, 0, {"fail.nvmlDeviceGetPowerUsage": 0}, 0)

    assert rows == [{key: FIRST[key] for key in FIRST if key != "gpu/power_w"}] * 5
    assert said == [
        "GPU statistics: power_w is not available on this device (Not Supported); no longer asked"
    ]


def test_two_failures_and_a_success_start_the_count_anew(play: Play, library: Path) -> None:
    """Only failures in a row tell that a field is not there."""
    fails, works = ({"fail.nvmlDeviceGetPowerUsage": code} for code in (NOT_SUPPORTED, 0))
    rows, said = play(library, fails, 0, 0, works, 0, fails, 0, 0, works, 0)

    assert ["gpu/power_w" in row for row in rows] == [False, False, True, False, False, True]
    assert said == []


def test_failure_on_one_gpu_leaves_the_other_alone(play: Play, library: Path) -> None:
    """What is not available is remembered per device."""
    fails, works = ({"fail.nvmlDeviceGetPowerUsage": code} for code in (NOT_SUPPORTED, 0))
    rows, _ = play(library, fails, 0, 0, 0, works, 0, 1)

    assert "gpu/power_w" not in rows[3]
    assert rows[4]["gpu/power_w"] == 400.0


def test_gpu_lost_in_mid_run_is_said_in_one_message(play: Play, library: Path) -> None:
    """Every field fails together; the user reads one line, not five."""
    functions = [
        "nvmlDeviceGetUtilizationRates",
        "nvmlDeviceGetMemoryInfo",
        "nvmlDeviceGetMemoryInfo_v2",
        "nvmlDeviceGetTemperature",
        "nvmlDeviceGetTemperatureV",
        "nvmlDeviceGetPowerUsage",
    ]
    lost = {f"fail.{function}": GPU_IS_LOST for function in functions}
    rows, said = play(library, 0, lost, 0, 0, 0, 0, 0)

    assert rows == [FIRST] + [{"gpu/memory_peak_gb": 3.0}] * 5
    assert said == [
        "GPU statistics: utilization, memory_used_gb, temperature, power_w are not available on "
        "this device (GPU is lost); no longer asked"
    ]


def test_device_unknown_to_nvml_is_said_in_one_message(play: Play, library: Path) -> None:
    """An index beyond the machine's GPUs is no crash."""
    rows, said = play(library, 5, 5, 5, 5)

    assert rows == [{}] * 4
    assert said == [
        "GPU statistics: utilization, memory_used_gb, temperature, power_w are not available on "
        "this device (Invalid Argument); no longer asked"
    ]


def test_older_driver_is_asked_by_the_older_functions(
    play: Play, build: Callable[..., Path]
) -> None:
    """Its memory figure still holds what the driver reserves."""
    rows, said = play(build("-DOLD_DRIVER"), 0)

    assert rows == [FIRST | {"gpu/memory_used_gb": 4.0, "gpu/memory_peak_gb": 4.0}]
    assert said == []


def test_sampling_after_close_starts_nvml_anew(play: Play, library: Path) -> None:
    """Closing twice, or before the first sample, is harmless as well."""
    rows, said = play(library, "close", 0, "close", "close", 0, 1)

    assert rows[:2] == [FIRST, FIRST]
    assert rows[2]["gpu/utilization"] == 90.0
    assert said == []


def test_handles_do_not_outlive_close(play: Play, library: Path) -> None:
    """A handle of the earlier NVML session is looked for again, not used."""
    rows, _ = play(library, 0, "close", {"count": 0}, 0)

    assert rows == [FIRST, {"gpu/memory_peak_gb": 3.0}]


def test_close_survives_a_failing_shutdown(play: Play, library: Path) -> None:
    """The user's own code may have shut NVML down."""
    rows, said = play(library, 0, {"fail.nvmlShutdown": 1}, "close", 0)

    assert rows == [FIRST, FIRST]
    assert said == []


@pytest.mark.skipif(
    ctypes.util.find_library("nvidia-ml") is not None, reason="this machine has a real NVML"
)
def test_machine_without_nvml_gives_nothing_and_says_nothing(play: Play) -> None:
    """A laptop without an NVIDIA GPU hears nothing of NVIDIA."""
    rows, said = play(None, 0, None, "close", 0)

    assert rows == [{}] * 3
    assert said == []


def test_nvml_that_does_not_start_is_said_once_when_cuda_is_in_use(
    play: Play, library: Path
) -> None:
    """Silent until the process uses CUDA; torch's own peak is there all the same."""
    broken = {"fail.nvmlInitWithFlags": 9}
    rows, said = play(library, broken, 0, ["aaaa"], 0, 0)

    assert rows == [{}, {"gpu/memory_peak_gb": 10.0}, {"gpu/memory_peak_gb": 10.0}]
    assert said == ["GPU statistics: NVML does not start (Driver Not Loaded); peak memory only"]


def test_cudas_own_uuid_beats_the_environment(play: Play, library: Path) -> None:
    """CUDA may order the GPUs otherwise than NVML; what it says beats the first guess."""
    uuids = [str(GPUS[key]).removeprefix("GPU-") for key in ("1.uuid", "0.uuid")]
    rows, said = play(library, 0, uuids, 0)

    assert [row["gpu/utilization"] for row in rows] == [37.0, 90.0]
    assert [row["gpu/memory_peak_gb"] for row in rows] == [3.0, 10.0]
    assert said == []


def test_mig_instance_is_found_by_cudas_uuid(play: Play, library: Path) -> None:
    """CUDA_VISIBLE_DEVICES=0 on a partitioned GPU gives torch the instance's UUID."""
    rows, said = play(library, [str(GPUS["2.uuid"]).removeprefix("MIG-")], 0)

    assert rows[0]["gpu/memory_used_gb"] == 2.0
    assert rows[0]["gpu/temperature"] == 71.0
    assert said == []


def test_unknown_device_is_the_one_torch_holds_memory_on(play: Play, library: Path) -> None:
    """CUDA's current device is the thread's, so the worker cannot ask for the trainer's."""
    uuids = [str(GPUS[key]).removeprefix("GPU-") for key in ("0.uuid", "1.uuid")]
    rows, _ = play(library, uuids, None)

    assert rows[0]["gpu/utilization"] == 90.0
    assert rows[0]["gpu/memory_peak_gb"] == 11.0


def test_making_a_sampler_loads_no_nvml(children: Pool) -> None:
    """NVML waits for the first sample, so that a run without GPU statistics never starts it."""
    assert children.apply_async(nvml_loaded_by_constructor).get(timeout=120) is None


def nvml_loaded_by_constructor() -> Any:
    """Return the library that pynvml has loaded (torch imports pynvml, but loads nothing)."""
    GpuSampler(print)
    return getattr(sys.modules.get("pynvml"), "nvmlLib", None)
