"""Requests, queues and processors, event by event: the compiled inside of the simulator.

A server has cores, which its busy instances, its loads and other work share: all at the same pace, none with more than
one core (processor sharing, as a CPU limit and a fair scheduler make it). An instance is one version of one task on one
server: a first-come queue, from which one batch after the other is taken. A request goes to the version that answers
when it arrives, and is answered there even if another one answers meanwhile, as Triton does it. Where a lane has the
reflex, it has one queue before all its versions, and which of them answers is chosen when a request leaves it.

Since all jobs of a server go at the same pace, each is known by the one number at which it ends on the server's virtual
clock, which advances by the CPU time that one job got: an event costs the same however many jobs there are (Parekh and
Gallager, "A generalized processor sharing approach to flow control", 1993).

Indices: a lane is a task on a server, `server * tasks + task`; an instance is a rung of a lane, `lane * rungs + rung`;
the job of an instance has its index, the job of a lane's load comes after all of them, `instances + lane`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from rung.core import reflex

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

NOTHING = -1
REACHED, LOADED = 0, 1
"""Why `advance` returned: the time was reached, or a load ended."""
TRITON, REFLEX, SLACK_FIT = 0, 1, 2
"""How a lane's requests find their version: as they arrive; by the reflex; by the slack of the first one alone."""


class State(NamedTuple):
    """Everything that changes or is looked at; arrays only, shared with the compiled code. Times in seconds."""

    # Requests, by arrival.
    arrival: Floats
    task: Ints
    pick: Floats
    """Uniform in [0, 1): which server it goes to; shape (requests, 2), the second for who looks at two."""
    latency: Floats
    """NaN until it is answered; infinite when it failed."""
    rung: Ints
    """Which rung answered."""
    following: Ints
    """The request behind it in its queue or batch."""
    # Lanes.
    active: Ints
    """The rung that answers; -1 where none does."""
    arrived: Ints
    late: Ints
    """Answers that passed the service level."""
    pending: Ints
    load_after: Floats
    """A load does not end before this, however fast its CPU work is done; infinite while there is none."""
    load_waits: Ints
    """1 while the load's CPU work is done and only time is missing."""
    choosing: Ints
    """TRITON, REFLEX or SLACK_FIT. With the latter two the lane's queue is that of its first instance."""
    working: Ints
    """1 while a request that was chosen for is in work."""
    limit_seconds: Floats
    """The service level, for those that choose."""
    # Instances.
    head: Ints
    tail: Ints
    batch: Ints
    """The first request of the batch in work; -1 while idle."""
    fixed_seconds: Floats
    """CPU time of a batch whatever its size."""
    each_seconds: Floats
    """CPU time that each request adds."""
    batch_size: Ints
    ready: Ints
    """1 while it is loaded and may be chosen."""
    # Jobs.
    ends: Floats
    """When it ends, on the server's virtual clock."""
    # Servers.
    cores: Floats
    other_cores: Floats
    """Cores that others on the machine use, always."""
    up: Ints
    virtual: Floats
    last: Floats
    used: Floats
    """CPU time used so far by instances and loads."""
    busy: Ints
    jobs: Ints
    """(servers, lanes * (rungs + 1) / servers): the first `busy` of each row are the jobs in work."""
    next_end: Floats
    """When the first of its jobs ends, as things are."""
    routes: Floats
    """(tasks, servers): cumulated shares of a task's requests."""
    fewest: Ints
    """One number: 1 where the balancer draws two servers and takes the one with fewer requests of the task
    (Mitzenmacher, "The power of two choices", 2001; Envoy's LEAST_REQUEST); 0 where it takes the first."""
    # Scalars, as arrays of one.
    now: Floats
    cursor: Ints
    next_load: Floats
    """When the first of the waiting loads ends."""


_choose: Callable[..., int] = numba.njit(cache=True)(reflex.choose)


@numba.njit(cache=True)
def _pace(state: State, server: int) -> float:
    available = float(max(state.cores[server] - state.other_cores[server], 0.01))
    return min(1.0, available / max(1, int(state.busy[server])))


@numba.njit(cache=True)
def _catch_up(state: State, server: int, time: float) -> None:
    """Bring a server's clocks to this time."""
    past = time - state.last[server]
    if past > 0:
        done = past * _pace(state, server)
        state.virtual[server] += done
        state.used[server] += done * state.busy[server]
        state.last[server] = time


@numba.njit(cache=True)
def _foresee(state: State, server: int) -> None:
    """Find when the first job of a server ends."""
    first = np.inf
    for place in range(state.busy[server]):
        first = min(first, state.ends[state.jobs[server, place]])
    if first < np.inf:
        first = state.last[server] + max(0.0, first - state.virtual[server]) / _pace(state, server)
    state.next_end[server] = first


@numba.njit(cache=True)
def _begin(state: State, server: int, job: int, cpu_seconds: float) -> None:
    state.ends[job] = state.virtual[server] + cpu_seconds
    state.jobs[server, state.busy[server]] = job
    state.busy[server] += 1


@numba.njit(cache=True)
def _end(state: State, server: int, place: int) -> None:
    state.ends[state.jobs[server, place]] = np.inf
    state.busy[server] -= 1
    state.jobs[server, place] = state.jobs[server, state.busy[server]]


@numba.njit(cache=True)
def _take_batch(state: State, server: int, instance: int) -> None:
    """Let an idle instance take what waits, up to its batch size."""
    first = state.head[instance]
    if first == NOTHING:
        return
    last, count = first, 1
    while count < state.batch_size[instance] and state.following[last] != NOTHING:
        last = state.following[last]
        count += 1
    state.head[instance] = state.following[last]
    state.following[last] = NOTHING
    if state.head[instance] == NOTHING:
        state.tail[instance] = NOTHING
    state.batch[instance] = first
    _begin(state, server, instance, state.fixed_seconds[instance] + count * state.each_seconds[instance])


@numba.njit(cache=True)
def _take_chosen(state: State, server: int, lane: int, time: float) -> None:
    """Let the first request of a lane's queue be answered by the version that is chosen for it."""
    rungs = state.head.size // state.active.size
    queue = lane * rungs
    request = state.head[queue]
    if request == NOTHING or state.working[lane]:
        return
    ladder = np.empty(rungs, np.int64)
    loaded = 0
    stretch = max(1.0, (state.busy[server] + 1) / max(state.cores[server] - state.other_cores[server], 0.01))
    seconds = np.empty(rungs)
    for rung in range(state.active[lane] + 1):
        seconds[rung] = stretch * (state.fixed_seconds[queue + rung] + state.each_seconds[queue + rung])
        if state.ready[queue + rung]:
            ladder[loaded] = rung
            loaded += 1
    others = state.pending[lane] - 1 if state.choosing[lane] == REFLEX else 0
    slack = state.limit_seconds[lane] - (time - state.arrival[request])
    rung = _choose(ladder[:loaded], others, seconds, slack)
    if rung == NOTHING:
        return
    state.head[queue] = state.following[request]
    state.following[request] = NOTHING
    if state.head[queue] == NOTHING:
        state.tail[queue] = NOTHING
    state.batch[queue + rung] = request
    state.working[lane] = 1
    _begin(state, server, queue + rung, state.fixed_seconds[queue + rung] + state.each_seconds[queue + rung])


@numba.njit(cache=True)
def _answer(state: State, instance: int, time: float) -> None:
    """Answer the batch of an instance."""
    rungs = state.head.size // state.active.size
    request = state.batch[instance]
    while request != NOTHING:
        lane = instance // rungs
        state.latency[request] = time - state.arrival[request]
        state.rung[request] = instance % rungs
        state.pending[lane] -= 1
        state.late[lane] += state.latency[request] > state.limit_seconds[lane]
        following = state.following[request]
        state.following[request] = NOTHING
        request = following
    state.batch[instance] = NOTHING


@numba.njit(cache=True)
def _drawn(state: State, task: int, pick: float) -> int:
    server = 0
    while server < state.cores.size - 1 and pick >= state.routes[task, server]:
        server += 1
    return server


@numba.njit(cache=True)
def _arrive(state: State, time: float) -> None:
    request = state.cursor[0]
    state.cursor[0] += 1
    task = state.task[request]
    tasks = state.active.size // state.cores.size
    server = _drawn(state, task, state.pick[request, 0])
    if state.fewest[0]:
        other = _drawn(state, task, state.pick[request, 1])
        if state.pending[other * tasks + task] < state.pending[server * tasks + task]:
            server = other
    lane = server * tasks + task
    state.arrived[lane] += 1
    rung = state.active[lane]
    if rung == NOTHING or not state.up[server]:
        state.latency[request] = np.inf
        return
    instance = lane * (state.head.size // state.active.size) + (rung if state.choosing[lane] == TRITON else 0)
    state.pending[lane] += 1
    if state.tail[instance] == NOTHING:
        state.head[instance] = request
    else:
        state.following[state.tail[instance]] = request
    state.tail[instance] = request
    if state.choosing[lane] != TRITON:
        if not state.working[lane]:
            _catch_up(state, server, time)
            _take_chosen(state, server, lane, time)
            _foresee(state, server)
    elif state.batch[instance] == NOTHING:
        _catch_up(state, server, time)
        _take_batch(state, server, instance)
        _foresee(state, server)


@numba.njit(cache=True)
def _complete(state: State, server: int, time: float) -> None:
    """End the first job of a server."""
    _catch_up(state, server, time)
    first = 0
    for place in range(1, state.busy[server]):
        if state.ends[state.jobs[server, place]] < state.ends[state.jobs[server, first]]:
            first = place
    job = state.jobs[server, first]
    _end(state, server, first)
    if job < state.head.size:
        _answer(state, job, time)
        lane = job // (state.head.size // state.active.size)
        if state.choosing[lane] == TRITON:
            _take_batch(state, server, job)
        else:
            state.working[lane] = 0
            _take_chosen(state, server, lane, time)
    else:
        lane = job - state.head.size
        state.load_waits[lane] = 1
        state.next_load[0] = min(state.next_load[0], max(time, state.load_after[lane]))
    _foresee(state, server)


@numba.njit(cache=True)
def advance(state: State, until: float) -> tuple[int, int]:
    """Let time pass until a moment, or until a load ends.

    Returns REACHED and -1, or LOADED and the lane; `state.now` says when.
    """
    while True:
        arrival = state.arrival[state.cursor[0]] if state.cursor[0] < state.arrival.size else np.inf
        server = 0
        for other in range(1, state.next_end.size):
            if state.next_end[other] < state.next_end[server]:
                server = other
        end = state.next_end[server]
        ready = state.next_load[0]
        if min(arrival, end, ready) >= until:
            state.now[0] = until
            for one in range(state.cores.size):
                _catch_up(state, one, until)
            return REACHED, NOTHING
        if ready <= arrival and ready <= end:
            return LOADED, _loaded(state, ready)
        if end <= arrival:
            _complete(state, server, end)
        else:
            _arrive(state, arrival)


@numba.njit(cache=True)
def _loaded(state: State, time: float) -> int:
    """Take the load that ends now out of those that wait; returns its lane."""
    found = 0
    while not (state.load_waits[found] and state.load_after[found] <= time):
        found += 1
    state.load_waits[found] = 0
    state.load_after[found] = np.inf
    _foresee_loads(state, time)
    state.now[0] = time
    return found


@numba.njit(cache=True)
def _foresee_loads(state: State, time: float) -> None:
    """Find when the first of the waiting loads ends, not before this time."""
    first = np.inf
    for lane in range(state.load_waits.size):
        if state.load_waits[lane]:
            first = min(first, max(time, state.load_after[lane]))
    state.next_load[0] = first


@numba.njit(cache=True)
def waiting(state: State, lane: int) -> int:
    """Return how many requests of a lane wait for their turn."""
    rungs = state.head.size // state.active.size
    count = 0
    for instance in range(lane * rungs, (lane + 1) * rungs):
        request = state.head[instance]
        while request != NOTHING:
            count += 1
            request = state.following[request]
    return count


@numba.njit(cache=True)
def begin_load(state: State, lane: int, cpu_seconds: float, seconds: float) -> None:
    """Begin a load: so much CPU time, which shares the server's cores, and so long at least."""
    server = lane // (state.active.size // state.cores.size)
    time = state.now[0]
    _catch_up(state, server, time)
    state.load_after[lane] = time + seconds
    _begin(state, server, state.head.size + lane, cpu_seconds)
    _foresee(state, server)


@numba.njit(cache=True)
def share_with(state: State, server: int, other_cores: float) -> None:
    """Let others on the machine use so many cores from now on."""
    _catch_up(state, server, state.now[0])
    state.other_cores[server] = other_cores
    _foresee(state, server)


@numba.njit(cache=True)
def take_down(state: State, server: int) -> None:
    """Let a server be gone: what it had accepted fails, its loads end in nothing, nothing is loaded."""
    time = state.now[0]
    _catch_up(state, server, time)
    lanes = state.active.size // state.cores.size
    rungs = state.head.size // state.active.size
    state.up[server] = 0
    state.busy[server] = 0
    state.next_end[server] = np.inf
    for lane in range(server * lanes, (server + 1) * lanes):
        state.active[lane] = NOTHING
        state.pending[lane] = 0
        state.load_after[lane] = np.inf
        state.load_waits[lane] = 0
        state.working[lane] = 0
        for instance in range(lane * rungs, (lane + 1) * rungs):
            for first in (state.batch[instance], state.head[instance]):
                request = first
                while request != NOTHING:
                    state.latency[request] = np.inf
                    request = state.following[request]
            state.batch[instance] = state.head[instance] = state.tail[instance] = NOTHING
            state.ready[instance] = 0
    _foresee_loads(state, time)


def new_state(
    arrival: Floats, task: Ints, pick: Floats, routes: Floats, cores: Floats, rungs: int, other_cores: Floats
) -> State:
    """Return a world without anything loaded.

    Args:
        arrival: seconds, ascending, shape (requests,).
        task: index of each request's task.
        pick: uniform in [0, 1), shape (requests, 2).
        routes: (tasks, servers), the share of each task's requests that goes to each server, cumulated.
        cores: by server.
        rungs: of the longest ladder.
        other_cores: what others use, by server.
    """
    requests, servers, tasks = arrival.size, cores.size, routes.shape[0]
    lanes = servers * tasks
    instances = lanes * rungs

    def none(count: int) -> Ints:
        return np.full(count, NOTHING, np.int64)

    def zeros(count: int) -> Ints:
        return np.zeros(count, np.int64)

    return State(
        arrival=arrival, task=task, pick=pick, latency=np.full(requests, np.nan), rung=none(requests),
        following=none(requests), active=none(lanes), arrived=zeros(lanes), late=zeros(lanes), pending=zeros(lanes),
        load_after=np.full(lanes, np.inf), load_waits=zeros(lanes), head=none(instances), tail=none(instances),
        batch=none(instances), fixed_seconds=np.zeros(instances), each_seconds=np.zeros(instances),
        choosing=zeros(lanes), working=zeros(lanes), limit_seconds=np.full(lanes, np.inf), ready=zeros(instances),
        batch_size=np.ones(instances, np.int64), ends=np.full(instances + lanes, np.inf), cores=cores,
        other_cores=other_cores, up=np.ones(servers, np.int64), virtual=np.zeros(servers), last=np.zeros(servers),
        used=np.zeros(servers), busy=zeros(servers), jobs=np.full((servers, tasks * (rungs + 1)), NOTHING, np.int64),
        next_end=np.full(servers, np.inf), routes=routes, now=np.zeros(1), cursor=zeros(1),
        next_load=np.full(1, np.inf), fewest=zeros(1),
    )  # fmt: skip
