"""Peaks of devices by the names that torch has for them."""

from __future__ import annotations

import pytest

from fasttrack.context.peak_flops import peak_flops


@pytest.mark.parametrize(
    ("device", "tflops"),
    [
        ("NVIDIA A100-SXM4-40GB", 312),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("A100-SXM4-40GB", 312),  # an older driver's
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756.5),
        ("NVIDIA H100 NVL", 835.5),
        ("NVIDIA H200", 989.4),
        ("NVIDIA GH200 480GB", 989.4),
        ("NVIDIA B200", 2250),
        ("NVIDIA GB200", 2500),
        ("NVIDIA L4", 121),
        ("NVIDIA L40", 181),
        ("NVIDIA L40S", 362),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("NVIDIA A10", 125),
        ("Tesla V100-SXM2-32GB", 125),
        ("Tesla V100-PCIE-16GB", 112),
        ("Tesla T4", 65),
        ("AMD Instinct MI250X", 191.5),
        ("AMD Instinct MI300X", 1307.4),
        ("AMD Instinct MI325X", 1307.4),
    ],
)
def test_a_device_is_known_by_its_name(device: str, tflops: float) -> None:
    """16 bits, without sparsity."""
    assert peak_flops(device) == pytest.approx(tflops * 1e12)


@pytest.mark.parametrize(
    "device",
    [
        "",
        "NVIDIA A100-SXM4-40GB MIG 1g.5gb",
        "NVIDIA A100-SXM-64GB",
        "NVIDIA A1000",
        "NVIDIA A10G",
        "NVIDIA H100",
        "NVIDIA H20",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA L400",
        "AMD Instinct MI250X/MI250",
        "AMD Radeon Graphics",
        "cpu",
    ],
)
def test_a_name_that_only_resembles_a_known_one_is_not_known(device: str) -> None:
    """A slice, a laptop's, a special one: a peak that is not theirs would be a lie."""
    assert peak_flops(device) is None


@pytest.mark.parametrize(
    ("precision", "h100", "a100", "v100"),
    [
        ("auto", 989.4e12, 312e12, 125e12),
        ("bf16", 989.4e12, 312e12, None),
        ("fp16", 989.4e12, 312e12, 125e12),
        ("tf32", 494.7e12, 156e12, None),
        ("fp8", 1978.9e12, None, None),
    ],
)
def test_types_have_peaks_of_their_own(
    precision: str, h100: float, a100: float | None, v100: float | None
) -> None:
    """None for what the device has no unit for."""
    names = ("NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-80GB", "Tesla V100-SXM2-16GB")

    assert [peak_flops(name, precision) for name in names] == [h100, a100, v100]
