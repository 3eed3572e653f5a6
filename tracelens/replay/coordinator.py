"""Which parameters ZeRO-3 gathers and when: DeepSpeed's coordinator, run on a list of its calls.

DeepSpeed 0.19.8 runtime/zero/partitioned_param_coordinator.py. The sizes decide, never the clock:
the same calls with the same settings gather the same parameters in the same groups.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

#: DeepSpeed's defaults (0.19.8 runtime/zero/config.py).
PREFETCH = 50_000_000
MAX_LIVE = 1_000_000_000
MAX_REUSE = 1_000_000_000
PERSISTENCE = 100_000


@dataclass(frozen=True, slots=True)
class FetchSetting:
    """How parameters are gathered; all in elements, named as in a ds_config without ``stage3_``."""

    prefetch_bucket_size: int = PREFETCH
    max_live_parameters: int = MAX_LIVE
    max_reuse_distance: int = MAX_REUSE
    param_persistence_threshold: int = PERSISTENCE


@dataclass(frozen=True, slots=True)
class Call:
    """One call of ``fetch_sub_module``: the module's own parameters, by number."""

    params: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Fetched:
    """What one call does, in this order.

    Attributes
    ----------
    own : tuple of int
        Parameters of the module that are gathered now.
    waited : tuple of tuple of int
        Gathers that are waited for and unpacked: the parameters of each.
    popped : int
        Parameters of the module that were under way: each takes its turn in the host's limit of
        outstanding events.
    ahead : tuple of int
        Parameters of later modules that are gathered in advance.
    freed : int
        Parameters that are given up behind the module.
    """

    own: tuple[int, ...]
    waited: tuple[tuple[int, ...], ...]
    popped: int
    ahead: tuple[int, ...]
    freed: int


def emulate(
    calls: Sequence[Call], nelems: Sequence[int], setting: FetchSetting
) -> tuple[Fetched, ...]:
    """What the calls of one forward and backward pass fetch.

    Parameters
    ----------
    calls : sequence of Call
        In the order of the hooks, modules without parameters included.
    nelems : sequence of int
        Elements of each parameter. Persistent ones are always there.
    setting : FetchSetting

    Examples
    --------
    >>> calls = [Call((0,)), Call((1,)), Call((2,)), Call((1,)), Call((0,))]
    >>> one = FetchSetting(8, 100, 0, 0)
    >>> [(f.own, f.ahead) for f in emulate(calls, [10, 10, 10], one)]
    [((0,), (1,)), ((), (2,)), ((), (1,)), ((), (0,)), ((), ())]
    """
    state = _State(
        setting,
        nelems,
        queue=deque((p, i) for i, c in enumerate(calls) for p in c.params),
        recent=dict.fromkeys(range(len(nelems)), -1),
        traversed=[sum(nelems[p] for p in c.params) for c in calls],
        calls=calls,
    )
    return tuple(state.fetch(i) for i in range(len(calls)))


@dataclass(slots=True)
class _State:
    """A pass under way. `handles` maps a parameter under way to its gather; `there` are usable."""

    setting: FetchSetting
    nelems: Sequence[int]
    queue: deque[tuple[int, int]]
    recent: dict[int, int]
    traversed: list[int]
    calls: Sequence[Call]
    handles: dict[int, tuple[int, ...]] = field(default_factory=dict)
    there: set[int] = field(default_factory=set)
    live: int = 0

    def _missing(self, p: int) -> bool:
        persists = self.nelems[p] <= self.setting.param_persistence_threshold
        return not persists and p not in self.there and p not in self.handles

    def _gather(self, params: tuple[int, ...]) -> None:
        for p in params:
            self.handles[p] = params
            self.live += self.nelems[p]

    def fetch(self, i: int) -> Fetched:
        """One call: `_fetch_sub_module_impl`, then the release behind the module."""
        params = self.calls[i].params
        own = tuple(p for p in params if self._missing(p))
        self._gather(own)
        waited: list[tuple[int, ...]] = []
        popped = [p for p in params if p in self.handles]
        for p in popped:
            handle = self.handles.pop(p)
            if p not in self.there:  # the first of a gather's parameters unpacks them all
                waited.append(handle)
                self.there.update(handle)
        ahead = self._ahead(i)
        self._gather(ahead)
        return Fetched(own, tuple(waited), len(popped), ahead, self._release(i))

    def _ahead(self, i: int) -> tuple[int, ...]:
        """What is gathered in advance: the queue up to the module, then up to the limit."""
        new = {p for p in self.calls[i].params if self.recent[p] < i}
        seen: set[int] = set()
        while self.queue and len(seen) < len(new):
            p, used = self.queue.popleft()
            self.recent[p] = used
            seen.add(p)
        if not self.setting.prefetch_bucket_size:
            return ()
        limit = min(self.setting.max_live_parameters - self.live, self.setting.prefetch_bucket_size)
        ahead: list[int] = []
        held = 0
        while self.queue and held < limit:
            p, used = self.queue.popleft()
            self.recent[p] = max(self.recent[p], used)
            if self._missing(p) and p not in ahead:
                ahead.append(p)
                held += self.nelems[p]
        return tuple(ahead)

    def _release(self, i: int) -> int:
        """`release_sub_module` of a module without children, once it has run."""
        free = {
            p
            for p in self.calls[i].params
            if p in self.there and p not in self.handles and self.recent[p] <= i + 1
        }
        passed = 0
        for k in range(i + 1, len(self.calls)):
            if passed >= self.setting.max_reuse_distance or not free:
                break
            free.difference_update(self.calls[k].params)
            passed += self.traversed[k]
        for p in free:
            self.there.discard(p)
            self.live -= self.nelems[p]
        return len(free)
