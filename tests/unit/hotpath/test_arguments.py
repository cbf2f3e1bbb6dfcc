"""Wrong arguments cost their own metrics only; whatever leads to an optimizer tells its rates."""

from __future__ import annotations

import signal
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from support.step_loggers import Bench
from support.trackers import Trackers, written_values

if TYPE_CHECKING:
    from collections.abc import Callable


class Garbage:
    """Raises whatever is asked of it."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"no {name}")

    def __bool__(self) -> bool:
        raise RuntimeError("neither")

    def __len__(self) -> int:
        raise RuntimeError("no length")

    def __iter__(self) -> Any:
        raise RuntimeError("no items")

    def __float__(self) -> float:
        raise KeyError("no number")

    def __repr__(self) -> str:
        raise RuntimeError("no text")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no comparison")

    __hash__ = object.__hash__

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        raise RuntimeError("no class")


class NoScale:
    """Is no GradScaler."""


class BreaksHalfway(dict[str, float]):
    """A mapping that can be read in part."""

    def __getitem__(self, name: str) -> float:
        if name == "c":
            raise OSError("gone")
        return super().__getitem__(name)


def sgd(*groups: dict[str, Any], lr: float = 0.1, kind: type = torch.optim.SGD) -> Any:
    """Return an optimizer with such groups, one weight each; by default one."""
    named = [{**group, "params": [torch.nn.Parameter(torch.ones(1))]} for group in groups or ({},)]
    return kind(named, lr=lr)


def without_rate() -> Any:
    """Return an optimizer whose only group has lost its rate."""
    optimizer = sgd()
    del optimizer.param_groups[0]["lr"]
    return optimizer


def without_groups() -> Any:
    """Return an optimizer that has lost its groups."""
    optimizer = sgd()
    optimizer.param_groups.clear()
    return optimizer


GOOD: dict[str, Any] = {
    "loss": 0.5,
    "loss_ar": 0.25,
    "loss_fm": 0.125,
    "grad_norm": 2.0,
    "extra": {"a": 1},
    "scaler": torch.amp.GradScaler("cpu", init_scale=8.0),
}
ROW = {
    "loss/total": 0.5,
    "loss/ar": 0.25,
    "loss/fm": 0.125,
    "train/lr": 0.1,
    "train/grad_norm": 2.0,
    "train/amp_scale": 8.0,
    "a": 1,
}


@pytest.mark.parametrize(
    ("argument", "wrong", "metric", "said"),
    [
        (
            "loss",
            Garbage(),
            "loss/total",
            "a Garbage raised RuntimeError('no class'); pass a number",
        ),
        (
            "loss",
            {"a": Garbage()},
            "loss/total",
            "loss/total.a: a Garbage raised RuntimeError('no class'); pass a number",
        ),
        ("loss", torch.ones(3), "loss/total", "a tensor of shape (3,) is not one number"),
        ("loss_ar", "high", "loss/ar", "loss/ar: a str 'high' is not one real number"),
        (
            "loss_fm",
            Garbage(),
            "loss/fm",
            "loss/fm: a Garbage raised RuntimeError('no class'); pass a number",
        ),
        (
            "grad_norm",
            Garbage(),
            "train/grad_norm",
            "train/grad_norm: a Garbage raised RuntimeError('no class')",
        ),
        ("scaler", NoScale(), "train/amp_scale", "scaler must be a GradScaler, not NoScale"),
        ("scaler", Garbage(), "train/amp_scale", "scaler raised RuntimeError('no _scale')"),
        ("scaler", 5, "train/amp_scale", "scaler must be a GradScaler, not int"),
        ("extra", [1], "a", "extra: it must be a mapping such as a dict, not list"),
        ("extra", 5, "a", "extra: it must be a mapping such as a dict, not int"),
        ("extra", "a", "a", "extra: it must be a mapping such as a dict, not str 'a'"),
        ("extra", Garbage(), "a", "extra: it raised RuntimeError('no class')"),
        ("optimizer", object(), "train/lr", "optimizer (object) has no parameter groups; pass an"),
        ("optimizer", 1e-3, "train/lr", "optimizer (float 0.001) has no parameter groups"),
        ("optimizer", Garbage(), "train/lr", "optimizer raised RuntimeError('no class')"),
        ("optimizer", [], "train/lr", "optimizer is an empty list; pass an optimizer"),
        ("optimizer", {}, "train/lr", "optimizer is an empty dict; pass an optimizer"),
        ("optimizer", without_groups(), "train/lr", "optimizer (SGD) has no parameter groups"),
        ("optimizer", without_rate(), "train/lr", "train/lr: its parameter group has no 'lr'"),
        ("optimizer", SimpleNamespace(param_groups=[{}]), "train/lr", "group has no 'lr'"),
        ("optimizer", SimpleNamespace(param_groups=[5]), "train/lr", "group has no 'lr'"),
        ("optimizer", SimpleNamespace(param_groups=5), "train/lr", "raised TypeError"),
        ("optimizer", sgd({"lr": lambda: 0.1}), "train/lr", "pass what it returns"),
    ],
    ids=lambda given: given if type(given) is str else type(given).__name__,
)
def test_a_wrong_argument_costs_its_own_metric_only(
    make: Trackers,
    capsys: pytest.CaptureFixture[str],
    argument: str,
    wrong: Any,
    metric: str,
    said: str,
) -> None:
    """Whatever its attributes do; the rest of the row is as it would be, and it is said once."""
    tracker = make()

    for step in range(3):
        tracker.log_training_step(step=step, **{"optimizer": sgd(), **GOOD, argument: wrong})

    rows = written_values(tracker)
    heard = capsys.readouterr().err
    right = {name: value for name, value in ROW.items() if name != metric}
    assert [{name: row.get(name) for name in ROW} for row in rows] == [{metric: None, **right}] * 3
    assert (tracker.stats().refused, tracker.stats().failed_calls) == (3, 0)
    assert said in heard
    assert heard.count("not logged") == 1


def test_all_arguments_may_be_wrong_at_once(make: Trackers) -> None:
    """What is left is throughput."""
    tracker = make()
    garbage: Any = Garbage()
    for step in range(3):
        tracker.log_training_step(
            garbage,
            step,
            garbage,
            garbage,
            garbage,
            scaler=garbage,
            loss_ar=garbage,
            loss_fm=garbage,
            extra=garbage,
        )
    tracker.log_training_step(0.5, 3, 8, grad_norm=garbage)

    rows = written_values(tracker)
    assert [row.keys() & {"loss/total", "perf/steps_per_sec"} for row in rows] == [
        {"perf/steps_per_sec"},
        {"perf/steps_per_sec"},
        {"loss/total", "perf/steps_per_sec"},
    ]
    assert tracker.stats().failed_calls == 0


def test_a_mapping_that_breaks_halfway_gives_what_was_read(
    make: Trackers, capsys: pytest.CaptureFixture[str]
) -> None:
    """In `extra`, in `log_metrics`, and within a mapping."""
    tracker = make()
    broken = BreaksHalfway(a=1.0, b=2.0, c=3.0)

    tracker.log_training_step(0.5, 0, extra=broken)
    tracker.log_metrics(broken, 1)

    assert written_values(tracker) == [{"loss/total": 0.5, "a": 1.0, "b": 2.0}, {"a": 1, "b": 2}]
    assert "extra: it raised OSError('gone')" in capsys.readouterr().err
    assert tracker.stats().refused == 2


def test_what_a_signal_handler_raises_in_an_argument_goes_on_its_way(make: Trackers) -> None:
    """Reading an argument may take long enough for a signal; its exception is the program's."""

    class Slow:
        def __getattr__(self, name: str) -> Any:
            signal.raise_signal(signal.SIGUSR1)
            return None

    def stop(number: int, frame: object) -> None:
        raise RuntimeError("preempted")

    tracker = make()
    slow: Any = Slow()
    before = signal.signal(signal.SIGUSR1, stop)
    try:
        for argument in ("optimizer", "scaler"):
            given: dict[str, Any] = {argument: slow}
            with pytest.raises(RuntimeError, match="preempted"):
                tracker.log_training_step(0.5, 0, **given)
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_the_scale_of_a_wrapped_scaler_is_logged(make: Trackers) -> None:
    """timm's holds torch's own, as the gradient norm knows."""
    scaler = SimpleNamespace(_scaler=torch.amp.GradScaler("cpu", init_scale=8.0))
    tracker = make()
    tracker.log_training_step(0.5, 0, scaler=scaler)

    assert [row["train/amp_scale"] for row in written_values(tracker)] == [8.0]


# --- learning rates -------------------------------------------------------------------------------


def rates(bench: Bench, *optimizers: Any) -> list[dict[str, Any]]:
    """Log each in turn; return the rates of each row."""
    for step, optimizer in enumerate(optimizers):
        bench.log(step, None, optimizer=optimizer)
    return [values for _, values in bench.records()]


def test_groups_of_one_name_are_numbered_from_the_second_on() -> None:
    """Two groups of one name lost one."""
    names = ("body", "head", "head", "head", "", None, 7, "1")
    groups = [{"name": name, "lr": i / 10} for i, name in enumerate(names)]
    (logged,) = rates(Bench(log_interval=1), sgd(*groups))

    assert logged == {
        "train/lr": 0.0,
        "train/lr/head": 0.1,
        "train/lr/head/2": 0.2,
        "train/lr/head/3": 0.3,
        "train/lr/4": 0.4,
        "train/lr/5": 0.5,
        "train/lr/7": 0.6,
        "train/lr/1": 0.7,
    }


def test_names_that_collide_with_numbers_lose_nothing() -> None:
    """A group may be called like another's number."""
    groups = [{"name": name, "lr": i / 10} for i, name in enumerate(("a", "2", None, "2", "2/3"))]
    (logged,) = rates(Bench(log_interval=1), sgd(*groups))

    assert sorted(logged.values()) == [0.0, 0.1, 0.2, 0.3, 0.4]


def test_two_optimizers_in_turn_have_their_own_names_and_rates() -> None:
    """A GAN's: one's rate stood under the other's name."""
    generator = sgd({"name": "up"}, {"name": "out", "lr": 0.2})
    critic = sgd({"name": "down"}, {"name": "score", "lr": 0.4}, lr=0.3, kind=torch.optim.Adam)
    single = sgd(lr=0.5)
    logged = rates(Bench(log_interval=1), *[generator, critic, single] * 2)

    assert (
        logged
        == [
            {"train/lr": 0.1, "train/lr/out": 0.2},
            {"train/lr": 0.3, "train/lr/score": 0.4},
            {"train/lr": 0.5},
        ]
        * 2
    )


def test_a_group_that_is_renamed_has_its_new_name_from_then_on() -> None:
    """Nothing about an optimizer is remembered."""
    bench, optimizer = Bench(log_interval=1), sgd({}, {"name": "a"})
    first = rates(bench, optimizer)
    optimizer.param_groups[1]["name"] = "b"

    assert first + rates(bench, optimizer) == [
        {"train/lr": 0.1, "train/lr/a": 0.1},
        {"train/lr": 0.1, "train/lr/b": 0.1},
    ]


def test_names_that_cannot_be_hashed_are_written_as_text() -> None:
    """Whatever stands in the group."""
    (logged,) = rates(Bench(log_interval=1), sgd({}, {"name": ["a", "b"]}))

    assert logged == {"train/lr": 0.1, "train/lr/['a', 'b']": 0.1}


def test_the_groups_of_a_list_of_optimizers_are_numbered_through() -> None:
    """One that is wrong is refused under its own number."""
    optimizers = [sgd(), sgd({}, {"name": "head", "lr": 0.3}, lr=0.2), None, sgd(lr=0.5)]
    bench = Bench(log_interval=1)
    (logged,) = rates(bench, optimizers)

    assert logged == {
        "train/lr": 0.1,
        "train/lr/1": 0.2,
        "train/lr/head": 0.3,
        "train/lr/4": 0.5,
    }
    assert list(bench.notices.reasons()) == [
        "train/lr/3: optimizer (NoneType) has no parameter groups"
    ]


def test_optimizers_in_a_dict_are_named_by_its_keys() -> None:
    """Each further group of one below its name; no two are the same."""
    optimizers = {"g": sgd({}, {"lr": 0.2}), "g/1": sgd(lr=0.3), "d": torch.optim.Adam}
    bench = Bench(log_interval=1)
    (logged,) = rates(bench, optimizers)

    assert sorted(logged.items())[0] == ("train/lr/g", 0.1)
    assert sorted(logged.values()) == [0.1, 0.2, 0.3]
    assert list(bench.notices.reasons()) == ["train/lr/d: optimizer (type) has no parameter groups"]


def test_a_scheduler_tells_its_optimizers_rate_as_it_is() -> None:
    """All of torch's; the plateau's, too, and one made of several."""
    made = torch.optim.lr_scheduler
    optimizer = sgd({}, {"lr": 0.2})
    schedulers = [
        made.StepLR(optimizer, 10),
        made.LambdaLR(optimizer, lambda step: 1.0),
        made.ReduceLROnPlateau(optimizer),
        made.SequentialLR(
            optimizer, [made.ConstantLR(optimizer, 1.0), made.StepLR(optimizer, 10)], [5]
        ),
        made.ChainedScheduler([made.StepLR(optimizer, 10)]),
    ]
    logged = rates(Bench(log_interval=1), *schedulers)

    assert logged == [{"train/lr": 0.1, "train/lr/1": 0.2}] * len(schedulers)


class Delegating:
    """Wraps an optimizer as Accelerate and Apex do: with its groups, or without."""

    def __init__(self, optimizer: Any, *, tells: bool) -> None:
        """Wrap it."""
        self.optimizer = optimizer
        if tells:
            self.param_groups = optimizer.param_groups


@pytest.mark.parametrize(
    "wrap",
    [
        lambda optimizer: Delegating(optimizer, tells=True),
        lambda optimizer: Delegating(optimizer, tells=False),
        lambda optimizer: Delegating(Delegating(optimizer, tells=False), tells=False),
        lambda optimizer: SimpleNamespace(optimizers=[optimizer]),
        lambda optimizer: SimpleNamespace(scheduler=SimpleNamespace(optimizer=optimizer)),
        lambda optimizer: (optimizer,),
        lambda optimizer: optimizer.param_groups,
        lambda optimizer: optimizer.param_groups[0],
    ],
    ids=["groups", "inner", "twice", "several", "scheduler", "tuple", "list of groups", "group"],
)
def test_wrapped_optimizers_are_understood(wrap: Callable[[Any], Any]) -> None:
    """Accelerate's, Lightning's, Apex's, DeepSpeed's; what leads to parameter groups will do."""
    assert rates(Bench(log_interval=1), wrap(sgd(lr=0.25))) == [{"train/lr": 0.25}]


def test_a_wrapper_around_itself_ends() -> None:
    """Nothing hangs."""
    loop = SimpleNamespace()
    loop.optimizer = loop
    endless: list[Any] = []
    endless.append(endless)

    assert rates(Bench(log_interval=1), loop, endless) == [{}, {}]


def test_a_rate_that_is_a_tensor_is_captured_as_any() -> None:
    """Of a capturable optimizer; it is changed in place afterwards."""
    rate = torch.tensor(0.5)
    optimizer = sgd({"lr": rate})
    bench = Bench(log_interval=1)
    bench.log(0, None, optimizer=optimizer)
    rate.fill_(0.1)

    assert bench.records() == [(0, {"train/lr": 0.5})]
