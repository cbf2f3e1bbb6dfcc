"""All GPUs of a node: real ctypes calls of the unmodified nvidia-ml-py into a fake library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.nvml import compile_fake
from support.runs import run_script

GIB = 2**30
GPUS: dict[str, Any] = {
    "count": 2,
    "0.uuid": "GPU-aaaa1111-0000-0000-0000-000000000000",
    "0.util": 37,
    "0.used": 3 * GIB,
    "0.temp": 41,
    "0.power": 250_500,
    "0.sm": 1980,
    "0.memclk": 2619,
    "0.reasons": 0x4,
    "0.corrected": 2,
    "0.pcie_rx": 2048,
    "0.pcie_tx": 512,
    "0.nvlink_rx": 1024,
    "0.nvlink_tx": 4096,
    "1.uuid": "GPU-bbbb2222-0000-0000-0000-000000000000",
    "1.util": 90,
    "1.used": 5 * GIB,
    "1.temp": 71,
    "1.power": 400_000,
    "1.reasons": 0x40,
    "1.uncorrected": 1,
    "2.uuid": "MIG-cccc3333-0000-0000-0000-000000000000",
    "2.parent": 1,
    "2.used": 2 * GIB,
    "3.uuid": "MIG-dddd4444-0000-0000-0000-000000000000",
    "3.parent": 1,
    "3.used": GIB,
}
PLAY = """
import ctypes, json, os, sys
from pathlib import Path
from fasttrack.nodes.gpus import NodeGpus

library, state, plays = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
ctypes.CDLL(library, ctypes.RTLD_GLOBAL)  # its SONAME answers every later dlopen
os.environ["FAKE_NVML_STATE"] = str(state)
told = []
for play in plays:
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)
    os.environ.update(play["environment"])
    now, clock = dict(play["state"]), [0.0]
    state.write_text("".join(f"{key} {value}\\n" for key, value in now.items()))
    gpus = NodeGpus(lambda: clock[0])
    samples = [gpus.sample()]
    for change in play["changes"]:
        now |= change
        state.write_text("".join(f"{key} {value}\\n" for key, value in now.items()))
        clock[0] += 2.0
        samples.append(gpus.sample())
    told.append([gpus.reason, gpus.facts(), samples])
    gpus.close()
torch_was_needed = "torch" in sys.modules and "torch" not in BEFORE
print(json.dumps([told, torch_was_needed]))
"""


def make_play(*changes: dict[str, Any], **environment: str) -> dict[str, Any]:
    """Return a play: samples, with changes of the GPUs between them."""
    return {"environment": environment, "state": GPUS, "changes": list(changes)}


def play_all(tmp_path: Path, *plays: dict[str, Any], flags: tuple[str, ...] = ()) -> list[Any]:
    """Play them one after another in a process; return reason, facts and samples of each."""
    library = compile_fake(tmp_path, *flags)
    script = "import sys\nBEFORE = set(sys.modules)\n" + PLAY
    state = str(tmp_path / "state")
    printed = run_script(script, str(library), state, json.dumps(list(plays)), fresh=True).stdout
    told, torch_was_needed = json.loads(printed)
    assert not torch_was_needed
    return list(told)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What one process after another would see, from one process: it is a start of Python each."""
    lost = {f"fail.{name}": 15 for name in ("nvmlDeviceGetPowerUsage", "nvmlDeviceGetClockInfo")}
    working = dict.fromkeys(lost, 0)
    return play_all(
        tmp_path_factory.mktemp("gpus"),
        make_play({"0.nvlink_rx": 1024 + 8192, "0.nvlink_tx": 4096}),
        make_play(CUDA_VISIBLE_DEVICES="GPU-bbbb,0"),
        make_play(CUDA_VISIBLE_DEVICES=str(GPUS["3.uuid"])),
        {**make_play(), "state": {**GPUS, "1.mig": 1}},
        make_play(CUDA_VISIBLE_DEVICES=""),
        make_play(CUDA_VISIBLE_DEVICES="0,7,1"),
        make_play(lost, {}, {}, working),
        {**make_play(), "state": {**GPUS, "fail.nvmlInitWithFlags": 9}},
    )


def test_each_field_is_read_in_its_unit(told: list[Any]) -> None:
    """Rates of NVLink between two samples; what a GPU does not have is left out."""
    reason, facts, (first, second) = told[0]

    assert reason is None
    assert [each["uuid"] for each in facts] == [GPUS["0.uuid"], GPUS["1.uuid"]]
    assert first[0] == {
        "utilization": 37,
        "memory_used_gb": 3,
        "temperature": 41,
        "power_w": 250.5,
        "clock_sm_mhz": 1980,
        "clock_memory_mhz": 2619,
        "throttled_power": 1,
        "throttled_thermal": 0,
        "ecc_corrected": 2,
        "ecc_uncorrected": 0,
        "pcie_recv_mb_s": 2,
        "pcie_sent_mb_s": 0.5,
    }
    assert second[0] == {**first[0], "nvlink_recv_mb_s": 4, "nvlink_sent_mb_s": 0}
    assert (first[1]["throttled_power"], first[1]["throttled_thermal"]) == (0, 1)
    assert first[1]["ecc_uncorrected"] == 1
    assert "nvlink_recv_mb_s" not in second[1]  # a GPU without NVLink


def test_the_gpus_that_are_visible_are_read(told: list[Any]) -> None:
    """Chosen ones, MIG instances, none, one that is not there, one that is lost; no driver."""
    _, chosen, instance, partitioned, hidden, unknown, lost, no_driver = told

    assert [each["uuid"] for each in chosen[1]] == [GPUS["1.uuid"], GPUS["0.uuid"]]
    assert [gpu["utilization"] for gpu in chosen[2][0]] == [90, 37]

    (only,) = instance[2][0]
    assert (only["memory_used_gb"], only["power_w"]) == (1, 400)
    assert "utilization" not in only  # which NVML does not tell of instances
    uuids = [each["uuid"] for each in partitioned[1]]
    assert uuids == [GPUS["0.uuid"], GPUS["2.uuid"], GPUS["3.uuid"]]
    assert [gpu["memory_used_gb"] for gpu in partitioned[2][0]] == [3, 2, 1]

    assert hidden[:2] == ["none is visible", []]
    assert [each["uuid"] for each in unknown[1]] == [GPUS["0.uuid"]]  # as CUDA has it
    has_power = ["power_w" in sample[0] for sample in lost[2]]
    assert has_power == [True, False, False, False, False]  # three times, then never again
    assert all(sample[0]["utilization"] == 37 for sample in lost[2])
    assert no_driver == ["NVML does not start (Driver Not Loaded)", [], [[]]]


def test_older_drivers_tell_the_same(tmp_path: Path) -> None:
    """By other functions."""
    ((_, _, (sample,)),) = play_all(tmp_path, make_play(), flags=("-DOLD_DRIVER",))

    assert (sample[0]["throttled_power"], sample[0]["temperature"]) == (1, 41)
