"""What the vendors' data sheets promise: floating-point operations per second, by device and type.

Dense ones: where a sheet gives figures with sparsity (NVIDIA's since Hopper, twice as high), half
of them. They are those of the tensor cores with sums in 32 bits, at the boost clock, so that no
program reaches them. Only devices whose name tells which sheet is theirs are in the table: an
"H100" with other memory, a laptop's GPU and a slice of one (MIG) are others.
"""

from __future__ import annotations

import re
from typing import NamedTuple


class _Peak(NamedTuple):
    """In TFLOP/s; None: the sheet has none."""

    bf16: float | None
    fp16: float | None
    tf32: float | None
    fp8: float | None
    source: str


_A100 = "https://www.nvidia.com/content/dam/en-zz/Solutions/Data-Center/a100/pdf/nvidia-a100-datasheet-us-nvidia-1758950-r4-web.pdf"
_HOPPER = "https://resources.nvidia.com/en-us-tensor-core/nvidia-tensor-core-gpu-datasheet"
_H200 = "https://nvdam.widen.net/s/nb5zzzsjdf/hpc-datasheet-sc23-h200-datasheet-3002446"
_GH200 = "https://resources.nvidia.com/en-us-grace-cpu/grace-hopper-superchip"
_BLACKWELL = "https://nvdam.widen.net/s/wwnsxrhm2w/blackwell-datasheet-3384703"
_L4 = "https://resources.nvidia.com/en-us-data-center-overview/l4-gpu-datasheet"
_L40 = "https://resources.nvidia.com/en-us-l40s/l40s-datasheet-28413"
_ADA = "https://images.nvidia.com/aem-dam/Solutions/geforce/ada/nvidia-ada-gpu-architecture.pdf"
_A10 = "https://www.nvidia.com/content/dam/en-zz/Solutions/Data-Center/a10/pdf/a10-datasheet.pdf"
_A30 = "https://www.nvidia.com/en-us/data-center/products/a30-gpu/"
_A40 = "https://images.nvidia.com/content/Solutions/data-center/a40/nvidia-a40-datasheet.pdf"
_V100 = "https://images.nvidia.com/content/technologies/volta/pdf/volta-v100-datasheet-update-us-1165301-r5.pdf"
_T4 = "https://www.nvidia.com/content/dam/en-zz/Solutions/Data-Center/tesla-t4/t4-tensor-core-datasheet-951643.pdf"
_MI200 = "https://www.amd.com/en/products/accelerators/instinct/mi200/mi250x.html"
_MI300 = "https://www.amd.com/en/products/accelerators/instinct/mi300/mi300x.html"
_MI325 = "https://www.amd.com/en/products/accelerators/instinct/mi300/mi325x.html"

_PEAKS = {  # the whole name, as torch has it, without the maker's
    r"A100-SXM4-[48]0GB|A100-PCIE-40GB|A100 80GB PCIe": _Peak(312, 312, 156, None, _A100),
    r"H100 80GB HBM3|H100 SXM\d?.*": _Peak(989.4, 989.4, 494.7, 1978.9, _HOPPER),
    r"H100 PCIe": _Peak(756.5, 756.5, 378, 1513, _HOPPER),
    r"H100 NVL": _Peak(835.5, 835.5, 417.5, 1670.5, _HOPPER),
    r"H200|H200 SXM.*": _Peak(989.4, 989.4, 494.7, 1978.9, _H200),
    r"H200 NVL": _Peak(835.5, 835.5, 417.5, 1670.5, _H200),
    r"GH200 480GB|GH200 144G HBM3e": _Peak(989.4, 989.4, 494.7, 1978.9, _GH200),
    r"B200": _Peak(2250, 2250, None, 4500, _BLACKWELL),
    r"GB200": _Peak(2500, 2500, 1250, 5000, _BLACKWELL),
    r"L4": _Peak(121, 121, 60, 242.5, _L4),
    r"L40": _Peak(181, 181, 90.5, 362, _L40),
    r"L40S": _Peak(362, 362, 183, 733, _L40),
    r"GeForce RTX 4090": _Peak(165.2, 165.2, 82.6, 330.3, _ADA),
    r"A10": _Peak(125, 125, 62.5, None, _A10),
    r"A30": _Peak(165, 165, 82, None, _A30),
    r"A40": _Peak(149.7, 149.7, 74.8, None, _A40),
    r"V100-SXM2-(16|32)GB": _Peak(None, 125, None, None, _V100),
    r"V100-PCIE-(16|32)GB": _Peak(None, 112, None, None, _V100),
    r"V100S-PCIE-32GB": _Peak(None, 130, None, None, _V100),
    r"T4": _Peak(None, 65, None, None, _T4),
    # torch sees each of the two dies of an MI250X as a device.
    r"Instinct MI250X": _Peak(191.5, 191.5, None, None, _MI200),
    r"Instinct MI300X.*": _Peak(1307.4, 1307.4, 653.7, 2614.9, _MI300),
    r"Instinct MI325X.*": _Peak(1307.4, 1307.4, 653.7, 2614.9, _MI325),
}


def peak_flops(device: str, precision: str = "auto") -> float | None:
    """Return the dense peak of a device, in FLOP/s; None where it is not known for certain.

    Args:
        device: its name, as `torch.cuda.get_device_name()` tells it.
        precision: "bf16", "fp16", "tf32" or "fp8"; "auto" is "bf16", and "fp16" on a device that
            has none.
    """
    name = re.sub(r"^((NVIDIA|AMD|Tesla) )+", "", device.strip())
    for pattern, peak in _PEAKS.items():
        if re.fullmatch(pattern, name):
            told = (peak.bf16 or peak.fp16) if precision == "auto" else getattr(peak, precision)
            return None if told is None else told * 1e12
    return None
