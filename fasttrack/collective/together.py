"""What all ranks do within one logging call: agree, and reduce what each of them has a part of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from fasttrack.collective.agreement import Agreement
from fasttrack.collective.gradient_norm import SplitGradients
from fasttrack.collective.members import Members
from fasttrack.handler_errors import is_handlers
from fasttrack.hotpath.advice import explain
from fasttrack.hotpath.norms import is_distributed, is_replicated, why_no_norm_is_known
from fasttrack.hotpath.parameters import ParameterList
from fasttrack.hotpath.records import GRAD_NORM

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fasttrack.notices import Notices

    Slot = tuple[str, str]
    """An argument of a logging call, and a name in it."""

NORM = ("model", GRAD_NORM)
"""The slot of the norm over a model's gradients."""


class Together:
    """Make whole what is split over ranks, where all of them make the call that has it.

    Whether they do is asked each time, so that no rank enters a collective that another leaves out.
    After the first time that one did, nothing is reduced any more: nobody waits twice.

    Threads: one.
    """

    def __init__(self, name: str, notices: Notices, patience_s: float) -> None:
        """Have reduced nothing yet.

        Args:
            name: of the tracker among those of its process; the same on all ranks.
            notices: told why something is not reduced.
            patience_s: how long a rank waits for others.
        """
        self._name = name
        self._notices = notices
        self._patience_s = patience_s
        self._agreements: dict[tuple[int, ...], Agreement] = {}
        self._ranks: dict[Any, tuple[int, ...]] = {}  # of a mesh
        self._models: dict[int, _SplitModel] = {}
        self._over = False

    def reduce(
        self, call: str, values: Mapping[Slot, Any], model: torch.nn.Module | None
    ) -> dict[Slot, torch.Tensor]:
        """Return the true values of those that are split, by slot; only of those that there are.

        Waits for the slowest rank. Nothing raises.

        Args:
            call: what is called, and for which step.
            values: DTensors.
            model: whose gradients' norm is asked for; None: no such norm.
        """
        if self._over:
            return {}
        self._over = True  # also where a signal's exception ends it here: the others give up
        whole: dict[Slot, torch.Tensor] = {}
        try:
            with torch.no_grad():
                why = self._reduce(call, values, model, whole)
        except Exception as error:  # nothing may raise into training
            if is_handlers(error):
                raise
            why = explain(error)
        self._over = why is not None
        if why is not None:
            self._notices.warn(
                "together",
                f"what several ranks hold parts of is not reduced by the logging calls: {why}",
            )
        return whole

    def _reduce(
        self,
        call: str,
        values: Mapping[Slot, Any],
        model: torch.nn.Module | None,
        whole: dict[Slot, torch.Tensor],
    ) -> str | None:
        if torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing():
            return None
        sets: dict[tuple[int, ...], dict[Slot, str]] = {}
        for slot, value in values.items():
            if is_replicated(value) or value.numel() != 1:
                continue  # there is nothing to do, or it is no metric
            if value.device_mesh.get_coordinate() is not None:
                sets.setdefault(self._ranks_of(value.device_mesh), {})[slot] = str(value.placements)
        split = None if model is None else self._split(model)
        if split is not None:
            sets.setdefault(split.ranks, {})[NORM] = split.describe()
        for ranks, slots in sorted(sets.items()):  # in one order on all of them
            ordered = sorted(slots.items())
            what = ", ".join(
                f"{argument} {name} {how}".strip() for (argument, name), how in ordered
            )
            if why := self._agreement(ranks).why_not(f"{call}: {what}"):
                return why
            for slot, _ in ordered:
                if slot != NORM:
                    whole[slot] = values[slot].full_tensor().detach().reshape(())
                elif split is not None and split.has_gradients:
                    whole[slot] = SplitGradients(split.listed.parameters).norm(Members(()))
        return None

    def _ranks_of(self, mesh: Any) -> tuple[int, ...]:
        ranks = self._ranks.get(mesh)
        if ranks is None:
            ranks = self._ranks[mesh] = tuple(sorted(mesh.mesh.flatten().tolist()))
        return ranks

    def _agreement(self, ranks: tuple[int, ...]) -> Agreement:
        if ranks not in self._agreements:
            self._agreements[ranks] = Agreement(self._name, ranks, self._patience_s)
        return self._agreements[ranks]

    def parameters_of(self, model: torch.nn.Module) -> ParameterList:
        """Return those of a model whose norm was reduced."""
        return self._models[id(model)].listed

    def _split(self, model: torch.nn.Module) -> _SplitModel | None:
        """Return what is known of a model whose norm all ranks can tell; None of another."""
        key = id(model)
        known = self._models.get(key)
        if known is None or not known.listed.is_still(model):
            listed = ParameterList(model, lambda _: self._models.pop(key, None))
            known = self._models[key] = _SplitModel(listed)
            meshes = {p.device_mesh for p in listed.parameters if is_distributed(p)}  # type: ignore[attr-defined]
            known.ranks = max(map(self._ranks_of, meshes), key=len, default=())
            known.refused = why_no_norm_is_known(model, listed.parameters) is not None
            if not known.refused and len(known.ranks) < dist.get_world_size():
                known.refused = True
                self._notices.warn(
                    "together_model",
                    f"train/grad_norm: the model is on {len(known.ranks)} of "
                    f"{dist.get_world_size()} ranks, and no logging call can know whether the "
                    "others hold more of it, as in a pipeline; on every rank call "
                    "tracker.reduce_grad_norm(model), with group= where they do",
                )
        return None if known.refused else known


class _SplitModel:
    """What is known of a model of DTensors."""

    __slots__ = ("listed", "ranks", "refused")

    def __init__(self, listed: ParameterList) -> None:
        self.listed = listed
        self.ranks: tuple[int, ...] = ()
        """All that have a part of it."""
        self.refused = False

    @property
    def has_gradients(self) -> bool:
        return any(p.grad is not None for p in self.listed.parameters)

    def describe(self) -> str:
        """Return all by which the collectives of its norm may differ between ranks."""
        odd = []
        for place, parameter in enumerate(self.listed.parameters):
            if (gradient := parameter.grad) is not None:
                placements = getattr(gradient, "placements", None)
                if placements != getattr(parameter, "placements", None):
                    odd.append(f"{place}{placements}")
        return f"{len(self.listed.parameters)} {self.has_gradients} {''.join(odd)}"
