"""The calls of a tracker that every rank makes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, overload

from fasttrack.opaque import opaque

if TYPE_CHECKING:
    import torch

    from fasttrack.collective.reducer import Reducer
    from fasttrack.engine import Engine


_ONLY = "reduce"  # what warnings call a value without a name


class CollectiveCalls:
    """What a tracker has for values of which each rank holds a part.

    These are collectives, on the thread of the call: every rank makes them, in the same order,
    whether or not its tracker records. On an accelerator they are enqueued, and nobody waits for
    the device; gloo waits for the slowest rank, as it does in your own.

    Threads: one at a time.
    """

    # A tracker's own.
    _engine: Engine | None
    _other: Any
    _reducer: Reducer | None = None

    @overload
    def reduce(
        self, values: Mapping[str, Any], op: str = "mean", *, group: Any = None
    ) -> dict[str, torch.Tensor]: ...
    @overload
    def reduce(self, values: Any, op: str = "mean", *, group: Any = None) -> torch.Tensor: ...
    def reduce(self, values: Any, op: str = "mean", *, group: Any = None) -> Any:
        """Return what `values` are over all ranks. **Every rank must call it**, inert ones, too.

        The results are what the logging calls take: tensors of one number, on the device, alike on
        all ranks. Several values by name cost one collective:

            told = tracker.reduce({"loss": loss, "aux": aux})  # on every rank
            tracker.log_training_step(told["loss"], step, extra={"loss/aux": told["aux"]})

        A DTensor gets its true value, what `full_tensor()` says: that over all shards of a
        parameter's `mean()`, the whole norm of what `clip_grad_norm_` returned. `op` does not apply
        to it, unless a group is given: its value is then reduced over that.

        Where a rank does not make the call, the others wait: the first call with these names up to
        five minutes; then it is refused, with the ranks that are missing, this time and from then
        on. A rank that leaves out a later one is not noticed before the process group's timeout
        (`init_process_group(timeout=...)`).

        Args:
            values: a number or a tensor of one element, or several by name; the same names on all
                ranks. None: this rank has none, which counts for nothing; so a pipeline's loss
                comes to all ranks from the last stage.
            op: "mean", "sum", "max", "min", or "norm", the root of the sum of squares, of norms of
                different parts.
            group: a process group, or a device mesh (all of its dimensions); default all ranks.

        Returns:
            The results, of several values by name. NaN where a rank passed what is no number, where
            no rank has a value, or where ranks made different calls. NaN, too, and left out by the
            logging calls, what could not be reduced, which is said: never one rank's own value.
        """
        if issubclass(type(values), Mapping):
            return self._collective().values(values, op, group)
        return self._collective().values({_ONLY: values}, op, group)[_ONLY]

    def reduce_grad_norm(self, model: Any, *, group: Any = None) -> torch.Tensor:
        """Return the L2 norm over all ranks' gradients. **Every rank must call it**, as `reduce`.

        They count as they are: with a GradScaler behind `unscale_()`. For FSDP2, HSDP, tensor
        parallelism and what is mixed of them, also where `clip_grad_norm_` refuses several meshes.
        Shards are summed over the dimensions of their meshes; what is replicated, and ordinary
        tensors, which must be alike on all ranks, count once. Every rank of a mesh must have the
        same parameters.

            norm = tracker.reduce_grad_norm(model)  # on every rank, behind backward()
            tracker.log_training_step(loss, step, optimizer=optimizer, grad_norm=norm)

        Costs one collective for each dimension of the meshes. Who does not make the call is
        noticed as in `reduce`, where one mesh or `group` has all ranks of the others.

        Args:
            model: a module, several, or parameters. DeepSpeed's engine says what it knows.
            group: ranks that hold other parameters, such as the stages of a pipeline: a process
                group or a device mesh.

        Returns:
            A tensor of one number, the same on all ranks. Where it cannot be known, which is said
            (FSDP1 and ZeRO have calls of their own), a NaN that the logging calls leave out.
        """
        return self._collective().grad_norm(model, group)

    def _collective(self) -> Reducer:
        if self._reducer is None:
            from fasttrack.collective.reducer import Reducer  # most runs need none of it
            from fasttrack.notices import Notices

            run = self._engine or self._other  # whose `stats()` count what is refused
            self._reducer = Reducer(Notices() if run is None else run.notices)
        return self._reducer


for _call in (CollectiveCalls.reduce, CollectiveCalls.reduce_grad_norm):
    opaque(_call)
