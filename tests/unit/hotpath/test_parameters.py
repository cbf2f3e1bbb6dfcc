"""The list of a model's parameters follows the model, whatever is done to it."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from fasttrack.hotpath.gradients import GradientSource
from fasttrack.hotpath.parameters import ParameterList
from fasttrack.hotpath.records import Gradients

if TYPE_CHECKING:
    from collections.abc import Callable

GIB = 2**30


class Twin(nn.Linear):
    """A layer that equals all others of its kind, as a dataclass may."""

    __hash__ = nn.Linear.__hash__

    def __init__(self) -> None:
        """Have a weight."""
        super().__init__(2, 2)

    def __eq__(self, other: object) -> bool:
        """Equal by kind."""
        return type(other) is Twin


def build() -> nn.Module:
    """Return a model with a frozen layer, a list and a layer without parameters."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(4, 4), nn.Tanh(), nn.ModuleList([nn.Linear(4, 4)]), nn.Linear(4, 4)
    )
    model[0].requires_grad_(False)
    model.register_parameter("scale", nn.Parameter(torch.ones(1)))
    model.add_module("twin", Twin())
    return model


def fill(model: nn.Module) -> float:
    """Give every parameter that wants one a new gradient; return the norm over all there are."""
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter) if parameter.requires_grad else parameter.grad
    return math.sqrt(
        sum(float(p.grad.double().pow(2).sum()) for p in model.parameters() if p.grad is not None)
    )


def unfreeze(model: Any) -> None:
    model[0].requires_grad_(True)


def freeze(model: Any) -> None:
    model[3].requires_grad_(False)
    model[3].zero_grad()


def freeze_and_leave_the_gradients(model: Any) -> None:
    model[3].requires_grad_(False)


def replace_a_parameter(model: Any) -> None:
    model[3].weight = nn.Parameter(torch.randn(4, 4))


def add_a_parameter(model: Any) -> None:
    model[1].register_parameter("slope", nn.Parameter(torch.randn(3)))


def remove_a_parameter(model: Any) -> None:
    model[3].bias = None


def delete_a_parameter(model: Any) -> None:
    del model[3].bias


def append_to_a_list(model: Any) -> None:
    model[2].append(nn.Linear(4, 4))


def insert_into_a_list(model: Any) -> None:
    model[2].insert(0, nn.Linear(4, 4))


def replace_a_layer(model: Any) -> None:
    model[3] = nn.Linear(4, 4)


def wrap_a_layer(model: Any) -> None:
    """Do what LoRA does: a small pair of layers beside the frozen one."""
    model[3] = nn.ModuleDict({"base": model[3].requires_grad_(False), "a": nn.Linear(4, 1)})
    model[3].zero_grad()


def add_a_layer_below_a_leaf(model: Any) -> None:
    model[3].lora = nn.Linear(4, 2)


def delete_a_layer(model: Any) -> None:
    del model[3]


def tie(model: Any) -> None:
    model[2][0].weight = model[3].weight


def untie(model: Any) -> None:
    tie(model)
    model[2][0].weight = nn.Parameter(torch.randn(4, 4))


def parametrize(model: Any) -> None:
    nn.utils.parametrizations.weight_norm(model[3])


def exchange_in_the_dictionary(model: Any) -> None:
    """Do what `Module._apply` does with some types of tensors."""
    model[3]._parameters["weight"] = nn.Parameter(torch.randn(4, 4))


def replace_one_number(model: Any) -> None:
    """Put an equal parameter of one element in place of another."""
    model.scale = nn.Parameter(model.scale.detach().clone())


def replace_an_equal_layer(model: Any) -> None:
    """Put a layer that says it equals the other in its place."""
    model.twin = Twin()


def make_double(model: Any) -> None:
    model.double()
    model.zero_grad()


CHANGES: tuple[Callable[[Any], None], ...] = (
    unfreeze,
    freeze,
    freeze_and_leave_the_gradients,
    replace_a_parameter,
    add_a_parameter,
    remove_a_parameter,
    delete_a_parameter,
    append_to_a_list,
    insert_into_a_list,
    replace_a_layer,
    wrap_a_layer,
    add_a_layer_below_a_leaf,
    delete_a_layer,
    tie,
    untie,
    parametrize,
    exchange_in_the_dictionary,
    replace_one_number,
    replace_an_equal_layer,
    make_double,
)


def norm_of(captured: Any) -> float:
    """Return what was captured as a number."""
    if isinstance(captured, Gradients):
        squares = [float(tensor.double().pow(2).sum()) for tensor in captured.tensors]
        return math.sqrt(sum(squares))
    assert isinstance(captured, torch.Tensor)
    return float(captured)


@pytest.mark.parametrize("mode", ["inline", "worker"])
@pytest.mark.parametrize("change", CHANGES)
def test_the_norm_follows_the_model_at_once(change: Callable[[Any], None], mode: str) -> None:
    """The list was made anew every 256 logged steps: until then layers were missing, silently."""
    heard: list[str] = []
    source = GradientSource(mode, GIB, lambda _, text: heard.append(text))
    model = build()
    norms = []
    for number in range(5):
        if number == 2:
            change(model)
        expected = fill(model)
        norms.append((norm_of(source.capture(model)), expected))

    assert [norm for norm, _ in norms] == pytest.approx([true for _, true in norms], rel=1e-5)
    assert heard == []


@pytest.mark.parametrize("change", [*CHANGES[3:-1]])
def test_a_changed_model_is_not_taken_for_the_same(change: Callable[[Any], None]) -> None:
    """The proof itself: no change of structure goes unseen, and an unchanged model is not listed
    again."""
    model = build()
    listed = ParameterList(model, lambda _: None)
    before = listed.is_still(model)
    change(model)

    assert before
    assert not listed.is_still(model)
    assert ParameterList(model, lambda _: None).is_still(model)


def test_freezing_and_moving_need_no_new_list() -> None:
    """Frozen parameters are in it, and what lives elsewhere is the same object still."""
    model = build()
    listed = ParameterList(model, lambda _: None)
    unfreeze(model)
    make_double(model)

    assert listed.is_still(model)


def test_models_in_turn_are_listed_once_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two models of a GAN: each was listed anew at every call."""
    generator, critic = build(), build()
    walks: list[nn.Module] = []

    def count(model: nn.Module) -> None:
        walk = model.parameters

        def counted() -> Any:
            walks.append(model)
            return walk()

        monkeypatch.setattr(model, "parameters", counted)

    for model in (generator, critic):
        fill(model)
        count(model)
    source = GradientSource("worker", GIB, lambda _, text: None)
    for _ in range(4):
        for model in (generator, critic):
            source.capture(model)

    assert walks == [generator, critic]


class Choosy(nn.Module):
    """A model whose `parameters` are not what its modules hold."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = [nn.Parameter(torch.ones(2))]

    def parameters(self, recurse: bool = True) -> Any:
        return iter(self.hidden)


def test_a_model_with_parameters_of_its_own_making_is_asked_every_time() -> None:
    """What cannot be proven unchanged is listed anew."""
    model = Choosy()
    source = GradientSource("inline", GIB, lambda _, text: None)
    norms = []
    for _ in range(3):
        fill(model)
        norms.append(norm_of(source.capture(model)))
        model.hidden.append(nn.Parameter(torch.ones(2)))
        expected = fill(model)

    assert norm_of(source.capture(model)) == pytest.approx(expected)


def test_a_scripted_model_is_followed_too() -> None:
    """TorchScript's modules keep their parameters in C++."""
    with pytest.warns(DeprecationWarning, match="torch.jit"):
        model = torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)))
    source = GradientSource("inline", GIB, lambda _, text: None)
    expected = [fill(model) for _ in range(1)]

    assert norm_of(source.capture(model)) == pytest.approx(expected[0])
    assert norm_of(source.capture(model)) == pytest.approx(expected[0])


def test_a_compiled_model_is_followed_through_its_wrapper() -> None:
    """torch.compile's OptimizedModule holds the model; the layer is replaced in the original."""
    model = build()
    compiled: Any = torch.compile(model, backend="eager")
    source = GradientSource("inline", GIB, lambda _, text: None)
    fill(model)
    source.capture(compiled)
    replace_a_layer(model)
    expected = fill(model)

    assert norm_of(source.capture(compiled)) == pytest.approx(expected)


def test_a_new_model_at_the_address_of_an_old_one_is_a_new_model() -> None:
    """The models are known by their ids, which Python gives out again."""
    source = GradientSource("inline", GIB, lambda _, text: None)
    template = build()
    for _ in range(20):
        model = copy.deepcopy(template)
        expected = fill(model)
        assert norm_of(source.capture(model)) == pytest.approx(expected)
        del model
