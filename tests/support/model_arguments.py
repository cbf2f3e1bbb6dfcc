"""What a script may pass beside values: each argument in legal and illegal forms."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from support.model import LARGEST_STEP, Number, Refused
from support.model_calls import (
    BrokenModel,
    Config,
    Size,
    Spoil,
    Step,
    Told,
    TwoWeights,
    Value,
)
from support.model_values import Count, good, now_and_then, number_itself, plain, values

BIG = st.sampled_from((LARGEST_STEP, -LARGEST_STEP, LARGEST_STEP + 1, 10**30, -(10**30)))
_SPELLINGS: tuple[Any, ...] = (
    int,
    int,
    int,
    Count,
    np.int64,
    float,
    np.float64,
    torch.tensor,
    lambda number: torch.tensor([number]),
    lambda number: np.array(number),
)
bad_steps = st.sampled_from(
    (None, "7", math.nan, math.inf, True, [1], torch.tensor(1.0), *[torch.tensor(True)] * 2)
).map(lambda passed: Step(passed, None))


def spelled(number: int) -> st.SearchStrategy[Step]:
    """Return ways of passing a step."""
    return st.sampled_from(_SPELLINGS).map(lambda spell: Step(spell(number), number))


good_sizes = st.one_of(
    st.integers(0, 64).map(lambda size: Size(size, size)),
    st.sampled_from((8.0, np.int64(8), np.uint8(8), np.float32(8))).map(lambda size: Size(size, 8)),
)
sizes = now_and_then(
    good_sizes,
    st.sampled_from((-1, True, "8", math.nan, 10**18, torch.zeros(8, 2))).map(
        lambda size: Size(size, None)
    ),
)


def _lr_of(group: dict[str, Any], rate: Value | None, spoils: list[Spoil]) -> None:
    del group["lr"]
    if rate is not None:
        group["lr"] = rate.build(spoils)
    spoils.append(lambda: group.update(lr=-1.0))


def _sgd(groups: tuple[tuple[str | None, Value | None], ...], spoils: list[Spoil]) -> Any:
    optimizer = torch.optim.SGD([{"params": [torch.zeros(1)]} for _ in groups], lr=0.5)
    for group, (name, _) in zip(optimizer.param_groups, groups, strict=True):
        if name is not None:
            group["name"] = name
    # Now that the scheduler, which reads the first rates, needs no more than a number.
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)
    for group, (_, rate) in zip(optimizer.param_groups, groups, strict=True):
        _lr_of(group, rate, spoils)
    return optimizer, scheduler


def _rates(
    prefix: str, groups: tuple[tuple[str | None, Value | None], ...]
) -> dict[str, Number | Refused]:
    """Return the metric of each group, as docs/logging.md has it."""
    told: dict[str, Number | Refused] = {}
    for number, (name, rate) in enumerate(groups):
        key = f"{prefix}/{name or number}" if number else prefix
        if key in told:
            key = f"{key}/{number}"
        told[key] = Refused("'lr'") if rate is None else rate.outcome
    return told


def _one_group(rate: Value) -> Told:
    return Told(
        f"SGD {rate}",
        _rates("train/lr", ((None, rate),)),
        lambda spoils: _sgd(((None, rate),), spoils)[0],
    )


plain_optimizers = plain.map(_one_group)
usual_optimizers = st.floats().map(number_itself).map(_one_group)
_groups = st.lists(
    st.tuples(st.sampled_from((None, None, "head", "body")), now_and_then(values, st.none())),
    min_size=1,
    max_size=4,
).map(tuple)
_WRAPPERS: dict[str, Any] = {
    "optimizer": lambda optimizer, _: optimizer,
    "scheduler": lambda _, scheduler: scheduler,
    "wrapper": lambda optimizer, _: SimpleNamespace(optimizer=optimizer),
    "tuple": lambda optimizer, _: (optimizer,),
}


@st.composite
def optimizers(draw: st.DrawFn) -> Told:
    """Return what is passed as `optimizer`."""
    form = draw(st.sampled_from(("plain", "plain", *_WRAPPERS, "list", "dict", "scaled", "group")))
    groups = draw(_groups)
    if form == "plain":
        return draw(plain_optimizers)
    if form == "group":
        rate = draw(good)
        return Told(
            "a group", {"train/lr": rate.outcome}, lambda spoils: {"lr": rate.build(spoils)}
        )
    if form == "list":
        more = draw(_groups)
        return Told(
            f"[{groups}, {more}]",
            _rates("train/lr", groups + more),
            lambda spoils: [_sgd(groups, spoils)[0], _sgd(more, spoils)[1]],
        )
    if form == "dict":
        more = draw(_groups)
        return Told(
            f"{{g: {groups}, d: {more}}}",
            {**_rates("train/lr/g", groups), **_rates("train/lr/d", more)},
            lambda spoils: {"g": _sgd(groups, spoils)[0], "d": _sgd(more, spoils)[0]},
        )
    if form == "scaled":
        scale = draw(st.sampled_from((1, 4.0, 256)))
        return Told(
            f"loss scale {scale}, {groups}",
            _rates("train/lr", groups),
            lambda spoils: SimpleNamespace(
                loss_scale=scale, param_groups=_sgd(groups, spoils)[0].param_groups
            ),
            tells_of_scale={} if scale == 1 else {"train/amp_scale": scale},
        )
    wrap = _WRAPPERS.get(form, _WRAPPERS["optimizer"])
    return Told(
        f"{form} {groups}", _rates("train/lr", groups), lambda spoils: wrap(*_sgd(groups, spoils))
    )


class NoGroups:
    """What breaks where it is asked for its groups."""

    @property
    def param_groups(self) -> Any:
        """Raise."""
        raise RuntimeError("not now")


no_optimizers = st.sampled_from(("adam", 5, [], {}, NoGroups())).map(
    lambda passed: Told(repr(passed), {"train/lr": Refused("optimizer")}, lambda _: passed)
)


@st.composite
def models(draw: st.DrawFn, *, live: bool, spoil: bool, odd: bool = True) -> Told:
    """Return what is passed as `model`; `live` gradients are multiplied by 8."""
    forms = ("good", "good", "good", "no gradients", "no model", "broken")
    form = draw(st.sampled_from(forms)) if odd else "good"
    if form == "no model":
        return Told(form, {}, lambda _: "net")
    if form == "broken":
        return Told(form, {"train/grad_norm": Refused("model raised")}, lambda _: BrokenModel())
    if form == "no gradients":
        return Told(form, {}, lambda _: TwoWeights(1, torch.float32, gradients=False))
    times = draw(st.integers(0, 20))
    dtype = draw(st.sampled_from((torch.float32, torch.float64, torch.bfloat16)))

    def make(spoils: list[Spoil]) -> TwoWeights:
        model = TwoWeights(times, dtype)
        if spoil:
            spoils.append(model.spoil)
        return model

    return Told(f"{times} {dtype}", {"train/grad_norm": 5.0 * times / (8.0 if live else 1.0)}, make)


def live_scaler() -> Told:
    """Return a scaler by which gradients are multiplied by 8."""
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    scaler.scale(torch.ones(1))
    return Told("live", {"train/amp_scale": 8.0}, lambda _: scaler, live=True)


class NoScale:
    """What breaks where it is asked for its scale."""

    def get_scale(self) -> float:
        """Raise."""
        raise RuntimeError("no scale today")


_SCALE: dict[str, Number | Refused] = {"train/amp_scale": 8.0}
scalers = st.sampled_from(
    (
        Told("fresh", _SCALE, lambda _: torch.amp.GradScaler("cpu", init_scale=8.0)),
        Told("disabled", {"train/amp_scale": 1.0}, lambda _: torch.amp.GradScaler(enabled=False)),
        Told("timm's", _SCALE, lambda _: SimpleNamespace(_scaler=SimpleNamespace(_scale=8.0))),
        Told("any", _SCALE, lambda _: SimpleNamespace(get_scale=lambda: 8.0)),
        Told("text", {"train/amp_scale": Refused("GradScaler")}, lambda _: "scaler"),
        Told("broken", {"train/amp_scale": Refused("scaler raised")}, lambda _: NoScale()),
    )
)
configs = st.one_of(
    st.dictionaries(
        st.sampled_from(("lr", "depth", "text")),
        st.integers(-1000, 1000) | st.text("ab"),
        max_size=3,
    ),
    st.sampled_from((5, None, "text")),
).map(Config)
