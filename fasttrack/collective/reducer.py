"""Reduce what no rank knows alone, on the thread of the call, on every rank that makes it."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, Any

import torch

from fasttrack.collective.gradient_norm import SplitGradients
from fasttrack.collective.members import Members, members_of
from fasttrack.collective.packet import OPS, pack, reduction_of, stamp_of, unpack
from fasttrack.collective.roll_call import PATIENCE_S, RollCall
from fasttrack.errors import ValueRefusedError
from fasttrack.handler_errors import is_handlers
from fasttrack.hotpath.advice import describe, explain
from fasttrack.hotpath.capture import Capture
from fasttrack.hotpath.norms import is_distributed, is_replicated, why_no_norm_is_known
from fasttrack.hotpath.unreduced import unreduced

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from fasttrack.notices import Notices

REDUCE, GRAD_NORM = "reduce", "reduce_grad_norm"


class Reducer:
    """Do what `CollectiveCalls` says. Nothing raises; what cannot be reduced is said.

    Threads: one at a time, as for any collective.
    """

    def __init__(self, notices: Notices, patience_s: float = PATIENCE_S) -> None:
        """Have not asked any rank yet.

        Args:
            notices: told what is refused.
            patience_s: how long a rank waits for others at the first call of a kind.
        """
        self._notices = notices
        self._roll_call = RollCall(patience_s)
        self._capture = Capture("snapshot")

    def values(self, values: Mapping[Any, Any], op: str, group: Any) -> dict[Any, torch.Tensor]:
        """Return the reduced values, by name; `Unreduced` in the place of those that cannot be."""
        names: dict[Any, None] = {}
        reduced: dict[Any, torch.Tensor] = {}
        try:
            names = dict.fromkeys(values)
            with torch.no_grad():
                ordered = {name: values[name] for name in sorted(names, key=str)}
                reduced = self._values(ordered, op, group)
        except Exception as error:  # nothing may raise into training, the arguments' own code least
            if is_handlers(error):
                raise
            self._say(REDUCE, error)
        return {name: reduced[name] if name in reduced else unreduced() for name in names}

    def grad_norm(self, model: Any, group: Any) -> torch.Tensor:
        """Return the norm over all ranks' gradients; `Unreduced` where it cannot be known."""
        try:
            if hasattr(type(model), "get_global_grad_norm"):  # DeepSpeed's engine
                return _norm_of_engine(model)
            return self._norm(_modules_and_parameters(model), group)
        except Exception as error:  # nothing may raise into training
            if is_handlers(error):
                raise
            self._say(GRAD_NORM, error)
            return unreduced()

    def _say(self, name: Any, error: Exception) -> None:
        kind = "refused" if isinstance(error, ValueRefusedError) else "failed_calls"
        text = name if type(name) is str else describe(name)
        self._notices.lose(kind, text, explain(error), result="not reduced")

    # --- values ---------------------------------------------------------------------------------

    def _values(self, values: dict[Any, Any], op: str, group: Any) -> dict[Any, torch.Tensor]:
        if op not in OPS:
            raise ValueRefusedError(f"op must be one of {', '.join(OPS)}, not {describe(op)}")
        whole: dict[Any, torch.Tensor] = {}
        parts: dict[Any, Any] = {}
        for name, value in values.items():
            if not is_distributed(value):
                parts[name] = value
            elif group is not None:
                parts[name] = self._whole(name, value, group)
            elif (full := self._whole(name, value, group)) is not None:
                whole[name] = full
        if parts:
            whole |= self._reduced(parts, op, group)
        return whole

    def _whole(self, name: Any, value: Any, group: Any) -> torch.Tensor | None:
        """Return the value of a DTensor; all ranks of its mesh ask for it. None without one."""
        if group is not None and value.device_mesh.get_coordinate() is None:
            return None  # the group has ranks that know it
        try:
            if value.numel() != 1:
                raise ValueRefusedError(
                    f"a DTensor of shape {tuple(value.shape)} is not one number; pass a reduction "
                    "such as tensor.mean()"
                )
            members = members_of(value.device_mesh)
            if not is_replicated(value):
                self._call_the_roll(members, f"full_tensor/{name}")
            full: torch.Tensor = value.full_tensor()
            return full.detach().reshape(())
        except ValueRefusedError as error:
            self._say(name, error)
            return None

    def _reduced(self, values: dict[Any, Any], op: str, group: Any) -> dict[Any, torch.Tensor]:
        call = f"{op}/{','.join(map(str, values))}"
        try:
            members = members_of(group)
            if members.groups:
                self._call_the_roll(members, call)
        except ValueRefusedError as error:
            for name in values:
                self._say(name, error)
            return {}
        # From here on others wait for this rank: whatever is wrong with a value, it takes part.
        kept = [self._contribution(name, value) for name, value in values.items()]
        device = members.device() if members.groups else _device_of(kept)
        stamp = stamp_of(call)
        packet = pack(kept, op, stamp, device)
        members.all_reduce(packet, reduction_of(op))
        results, alike = unpack(packet, len(kept), op, stamp, members.size)
        if alike.is_cpu and not alike:
            raise ValueRefusedError(
                "the ranks made different calls of it, or in different order; on every rank call "
                "it as often, with the same names and op"
            )
        return dict(zip(values, results, strict=True))

    def _contribution(self, name: Any, value: Any) -> torch.Tensor | float | None:
        """Return what this rank has; NaN where that is no number, which is said."""
        if value is None:
            return None
        try:
            if hasattr(type(value), "trigger_wait"):  # of a collective
                value = value.wait()
            kept: Any = self._capture.scalar(str(name), value)
            return kept if isinstance(kept, torch.Tensor) else float(kept)
        except Exception as error:  # the value's own code may run
            if is_handlers(error):
                raise
            self._notices.lose("refused", str(name), explain(error), result="reduced as NaN")
            return float("nan")

    def _call_the_roll(self, members: Members, call: str) -> None:
        why = self._roll_call.why_not(members.names, call, members.ranks)
        if why is not None:
            raise ValueRefusedError(why)

    # --- the gradient norm ----------------------------------------------------------------------

    def _norm(
        self, given: tuple[list[torch.nn.Module], list[torch.Tensor]], group: Any
    ) -> torch.Tensor:
        modules, parameters = given
        for module in modules or [torch.nn.Module()]:
            if why := why_no_norm_is_known(module, parameters):
                raise ValueRefusedError(why)
        further = Members(()) if group is None else members_of(group)
        meshes = {p.device_mesh: None for p in map(_with_placements, parameters) if p is not None}
        sets = [Members((), mesh) for mesh in meshes] + [further] * bool(further.groups)
        # Ranks of one mesh have the same parameters; those of a group may have others.
        call = GRAD_NORM if further.groups else f"{GRAD_NORM}/{len(parameters)}"
        members = (further.names, tuple(meshes))
        if why := self._roll_call.why_not(members, call, lambda: _widest(sets)):
            raise ValueRefusedError(why)
        return SplitGradients(parameters).norm(further)


def _norm_of_engine(engine: Any) -> torch.Tensor:
    norm = engine.get_global_grad_norm()
    if norm is None:
        raise ValueRefusedError(
            "DeepSpeed knows no norm, or none yet; call it behind engine.step(), and at ZeRO stage "
            "0 in float32 in front of it, with engine.module"
        )
    if isinstance(norm, torch.Tensor):
        return norm.detach()
    return torch.tensor(float(norm), dtype=torch.float64)


def _modules_and_parameters(given: Any) -> tuple[list[torch.nn.Module], list[torch.Tensor]]:
    several = not isinstance(given, (torch.nn.Module, torch.Tensor))
    parts = [*given] if several and hasattr(type(given), "__iter__") else [given]
    modules = [part for part in parts if isinstance(part, torch.nn.Module)]
    parameters = [part for part in parts if isinstance(part, torch.Tensor)]
    if len(modules) + len(parameters) < len(parts):
        raise ValueRefusedError(
            f"model must be a torch.nn.Module, several, or their parameters, not {describe(given)}"
        )
    found = chain(parameters, *[module.parameters() for module in modules])
    return modules, list({id(parameter): parameter for parameter in found}.values())


def _with_placements(parameter: torch.Tensor) -> Any:
    """Return a parameter or its gradient where it is a DTensor; None where it is none."""
    like = parameter if parameter.grad is None else parameter.grad
    return like if is_distributed(like) else None


def _widest(sets: list[Members]) -> list[int] | None:
    """Return the ranks of the set that has all others'; None where there is none such."""
    ranks = [members.ranks() for members in sets]
    widest = max(ranks, key=len, default=[])
    return widest if set(widest).issuperset(_each(ranks)) else None


def _each(ranks: Iterable[list[int]]) -> Iterator[int]:
    return chain.from_iterable(ranks)


def _device_of(kept: list[torch.Tensor | float | None]) -> torch.device:
    """Return where a rank that is alone has its values."""
    devices = [k.device for k in kept if isinstance(k, torch.Tensor) and not k.is_cpu]
    return devices[0] if devices else torch.device("cpu")
