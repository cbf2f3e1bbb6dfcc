"""The measurements as functions, without a tracker."""

from __future__ import annotations

import ctypes.util
import json
import math
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from support.runs import run_script

from fasttrack import (
    ConfigurationError,
    compute_grad_norm,
    get_all_gpu_stats,
    get_amp_scale,
    get_learning_rate,
)

GIB = 2**30


@pytest.fixture
def model() -> torch.nn.Module:
    """Return a model that holds gradients, one of them in half precision, and one frozen part."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    net(torch.randn(16, 4)).square().sum().backward()
    half = torch.nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    half.grad = torch.full_like(half, 2.0)
    net.register_parameter("scale", half)
    net.register_parameter("frozen", torch.nn.Parameter(torch.ones(2), requires_grad=False))
    return net


def exact_norm(model: torch.nn.Module) -> float:
    """Return the norm in double precision."""
    gradients = [p.grad.double() for p in model.parameters() if p.grad is not None]
    return math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients))


# --- gradient norm --------------------------------------------------------------------------------


def test_grad_norm_is_the_l2_norm_over_all_gradients(model: torch.nn.Module) -> None:
    """A float, of a model, a list, a generator, or one parameter."""
    expected = pytest.approx(exact_norm(model), rel=1e-6)
    (first, *_) = model.parameters()
    assert first.grad is not None

    assert compute_grad_norm(model) == expected
    assert compute_grad_norm(list(model.parameters())) == expected
    assert compute_grad_norm(model.parameters()) == expected
    assert compute_grad_norm(first) == pytest.approx(float(first.grad.float().norm()), rel=1e-6)
    assert type(compute_grad_norm(model)) is float


def test_grad_norm_without_gradients_is_zero(model: torch.nn.Module) -> None:
    """As for `clip_grad_norm_`: before backward(), after zero_grad(), without parameters."""
    model.zero_grad()

    assert compute_grad_norm(model) == 0.0
    assert compute_grad_norm([]) == 0.0


def test_grad_norm_leaves_the_gradients_alone(model: torch.nn.Module) -> None:
    """It is a measurement."""
    before = [p.grad.clone() for p in model.parameters() if p.grad is not None]

    compute_grad_norm(model)

    after = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(map(torch.equal, before, after))


class Engine(torch.nn.Module):
    """Looks like a DeepSpeed engine that computed `norm` in its last step."""

    def __init__(self, norm: Any, module: torch.nn.Module) -> None:
        """Answer `norm`, and hold what an engine holds."""
        super().__init__()
        self.norm = norm
        self.module = module
        self.optimizer: Any = torch.optim.SGD(module.parameters(), lr=0.25)

    def get_global_grad_norm(self) -> Any:
        """Return what DeepSpeed returns: a float, a tensor, or None."""
        return self.norm

    def loss_scale(self) -> int:
        """Return the setting, which a dynamic scale soon leaves behind."""
        return 0


@pytest.mark.parametrize("norm", [1.5, torch.tensor(1.5)], ids=["float", "tensor"])
def test_deepspeeds_own_norm_is_taken(model: torch.nn.Module, norm: Any) -> None:
    """It is over all ranks, and before clipping."""
    assert compute_grad_norm(Engine(norm, model)) == 1.5


def test_engine_that_knows_no_norm_is_a_model(model: torch.nn.Module) -> None:
    """ZeRO stage 0 in float32 computes none, and its gradients are whole."""
    assert compute_grad_norm(Engine(None, model)) == pytest.approx(exact_norm(model), rel=1e-6)


def test_partitioned_gradients_are_refused_with_what_to_do(model: torch.nn.Module) -> None:
    """DeepSpeed marks the parameters that it has partitioned; FSDP and DTensor: test_gradients."""
    next(model.parameters()).ds_id = 0  # type: ignore[attr-defined]

    with pytest.raises(ConfigurationError, match="DeepSpeed ZeRO"):
        compute_grad_norm(model)
    with pytest.raises(ConfigurationError, match="DeepSpeed ZeRO"):
        compute_grad_norm(model.parameters())
    with pytest.raises(ConfigurationError, match=r"ask after its step\(\)"):
        compute_grad_norm(Engine(None, model))


def test_engine_without_norm_and_gradients_is_refused(model: torch.nn.Module) -> None:
    """After `engine.step()` they are gone; 0.0 would look like a norm."""
    model.zero_grad()

    with pytest.raises(ConfigurationError, match=r"before step\(\) at ZeRO stage 0"):
        compute_grad_norm(Engine(None, model))


@pytest.mark.parametrize("wrong", [None, 1.5, "model", [1.5]], ids=repr)
def test_grad_norm_of_something_else_is_refused(wrong: Any) -> None:
    """The message names the argument and the type."""
    with pytest.raises(ConfigurationError, match=r"model_or_parameters must be .* not (N|f|s)"):
        compute_grad_norm(wrong)


# --- learning rate, loss scale --------------------------------------------------------------------


def test_learning_rate_is_the_first_groups(model: torch.nn.Module) -> None:
    """Of an optimizer, of what wraps one, and where it is a tensor."""
    groups = [{"params": [p], "lr": lr} for p, lr in zip(model.parameters(), (0.1, 0.2))]  # noqa: B905
    optimizer = torch.optim.SGD(groups)
    on_tensor = torch.optim.Adam(model.parameters(), lr=torch.tensor(0.5), capturable=False)

    assert get_learning_rate(optimizer) == 0.1
    assert get_learning_rate(torch.optim.lr_scheduler.ConstantLR(optimizer, factor=0.5)) == 0.05
    assert get_learning_rate(Engine(None, model)) == 0.25
    assert get_learning_rate(on_tensor) == 0.5
    assert type(get_learning_rate(on_tensor)) is float


@pytest.mark.parametrize("wrong", [None, 0.1, torch.nn.Linear(1, 1)], ids=["None", "float", "net"])
def test_learning_rate_of_something_else_is_refused(wrong: Any) -> None:
    """The message names the argument and the type."""
    with pytest.raises(ConfigurationError, match=f"optimizer .*{type(wrong).__name__}"):
        get_learning_rate(wrong)


def test_amp_scale_is_the_grad_scalers(model: torch.nn.Module) -> None:
    """Before its first use too; 1.0 when disabled, as in `train/amp_scale`; None without one."""
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    assert get_amp_scale(scaler) == 8.0
    scaler.scale(torch.tensor(1.0))

    assert get_amp_scale(scaler) == 8.0
    assert get_amp_scale(torch.amp.GradScaler("cpu", enabled=False)) == 1.0
    assert get_amp_scale(None) is None


def test_amp_scale_of_deepspeed_is_its_optimizers(model: torch.nn.Module) -> None:
    """Its fp16 optimizers have the scale as a property, its engine only the setting."""
    engine = Engine(None, model)
    assert get_amp_scale(engine) is None

    engine.optimizer.loss_scale = 4096.0

    assert get_amp_scale(engine) == 4096.0
    assert get_amp_scale(engine.optimizer) == 4096.0


def test_amp_scale_of_something_else_is_refused() -> None:
    """The message names the argument and the type."""
    with pytest.raises(ConfigurationError, match="scaler must be a GradScaler, not int"):
        get_amp_scale(1)


# --- GPUs -----------------------------------------------------------------------------------------


@pytest.mark.skipif(
    ctypes.util.find_library("nvidia-ml") is not None, reason="this machine has a real NVML"
)
def test_without_a_gpu_there_are_no_statistics(capfd: pytest.CaptureFixture[str]) -> None:
    """And nothing is said."""
    assert get_all_gpu_stats() == {}
    assert capfd.readouterr() == ("", "")


GPU_SCRIPT = """
import ctypes, json, os, sys
ctypes.CDLL(sys.argv[1], ctypes.RTLD_GLOBAL)  # its SONAME answers every later dlopen
from fasttrack import get_all_gpu_stats
import pynvml, torch
print(json.dumps(get_all_gpu_stats()))
os.environ["CUDA_VISIBLE_DEVICES"] = "1"
print(json.dumps(get_all_gpu_stats()))
os.environ["CUDA_VISIBLE_DEVICES"] = ""
print(json.dumps(get_all_gpu_stats()))
assert pynvml._nvmlLib_refcount == 0, "NVML is left open"
assert not torch.cuda.is_initialized()
"""


def test_gpus_are_this_process_own_and_each_visible_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two, then one, then none visible; read through NVML's real Python binding."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler (cc) here to build the fake NVML library with")
    library = tmp_path / "libnvidia-ml.so.1"
    source = Path(__file__).parents[1] / "support" / "fake_nvml.c"
    flags = ["-shared", "-fPIC", "-Wl,-soname,libnvidia-ml.so.1"]
    subprocess.run([compiler, *flags, "-o", str(library), str(source)], check=True)
    state = {"count": 2}
    for index, util in enumerate((37, 90)):
        values = {"uuid": f"GPU-{index}", "util": util, "used": GIB, "temp": 41, "power": 250_500}
        state |= {f"{index}.{name}": value for name, value in values.items()}  # type: ignore[misc]
    (tmp_path / "state").write_text("".join(f"{key} {value}\n" for key, value in state.items()))
    monkeypatch.setenv("FAKE_NVML_STATE", str(tmp_path / "state"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    lines = run_script(GPU_SCRIPT, str(library), fresh=True).stdout.splitlines()

    both, second, none = map(json.loads, lines)
    rest = {"memory_used_gb": 1.0, "memory_peak_gb": 1.0, "temperature": 41.0, "power_w": 250.5}
    of_one = {util: {"utilization": util} | rest for util in (37.0, 90.0)}
    assert both == (
        {f"gpu/{name}": value for name, value in of_one[37.0].items()}
        | {f"gpu/0/{name}": value for name, value in of_one[37.0].items()}
        | {f"gpu/1/{name}": value for name, value in of_one[90.0].items()}
    )
    assert second == {f"gpu/{name}": value for name, value in of_one[90.0].items()}
    assert none == {}
