"""What a token takes, against figures that are published."""

from __future__ import annotations

from typing import Any

import pytest

from fasttrack import ConfigurationError, flops_per_token


def test_palm_540b_takes_what_its_paper_says() -> None:
    """118 layers, 48 heads of 256, 2,048 tokens: attention adds a hundredth; MFU is 46.2%.

    Table 3: 238.3 thousand tokens a second on 6,144 chips of 275 TFLOP/s.
    """
    each = flops_per_token(
        540_350_000_000, layers=118, heads=48, head_dim=256, sequence_length=2048
    )

    assert each == 6 * 540_350_000_000 + 12 * 118 * 48 * 256 * 2048
    assert 100 * 238_300 * each / (6144 * 275e12) == pytest.approx(46.2, abs=0.1)


def test_without_attention_it_is_six_times_the_parameters() -> None:
    """As Kaplan et al. count."""
    assert flops_per_token(124_000_000) == 744_000_000


@pytest.mark.parametrize("wrong", [{"parameters": 0}, {"layers": -1}, {"heads": 1.5}])
def test_what_is_no_number_is_named(wrong: dict[str, Any]) -> None:
    """The error has the argument's name."""
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        flops_per_token(**{"parameters": 1, **wrong})
