"""A hospital's state as plain values, for custody: what a restart needs of it, and nothing that
begins anew with a restart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fedskd_sim.messages import HopId
from fedskd_sim.protocol.events import Model
from fedskd_sim.protocol.state import Departure, State
from fedskd_sim.routes import code, decoded


def dump(state: State) -> dict[str, Any]:
    """Write a state as values that JSON has; of models their handles' numbers."""
    return {
        "cursor": state.cursor,
        "rollbacks": state.rollbacks,
        "waiting": [[*hop, model.number, model.digest] for hop, model in state.waiting.items()],
        "outbox": _dump_departures(state.outbox),
        "kept": _dump_departures(state.kept),
        "recent": [[*hop, digest] for hop, digest in state.recent.items()],
        "lost": dict(state.lost),
        "back": {name: code(back) for name, back in state.back.items()},
    }


def parse(values: Mapping[str, Any]) -> State:
    """Read what `dump` has written.

    Raises:
        ValueError, TypeError, KeyError: it is something else.

    """
    size = len(HopId._fields)
    waiting = {_hop(entry[:size]): _model(*entry[size:]) for entry in values["waiting"]}
    recent = {_hop(entry[:size]): str(entry[size]) for entry in values["recent"]}
    return State(
        cursor=int(values["cursor"]),
        rollbacks=int(values["rollbacks"]),
        waiting=waiting,
        outbox=_departures(values["outbox"]),
        recent=recent,
        kept=_departures(values.get("kept", ())),
        lost={str(name): int(round_) for name, round_ in values.get("lost", {}).items()},
        back={
            str(name): back
            for name, number in values.get("back", {}).items()
            if (back := decoded(int(number)))
        },
    )


def handles(state: State) -> dict[int, Model]:
    """Give the models that a state speaks of, by their numbers."""
    models = [
        *state.waiting.values(),
        *(one.model for one in (*state.outbox.values(), *state.kept.values())),
        *(state.parting or ())[1:],
    ]
    return {model.number: model for model in models}


def _dump_departures(departures: Mapping[HopId, Departure]) -> list[list[Any]]:
    return [[*hop, to, model.number, model.digest] for hop, (to, model, *_) in departures.items()]


def _departures(entries: Iterable[list[Any]]) -> dict[HopId, Departure]:
    size = len(HopId._fields)
    return {
        _hop(entry[:size]): Departure(str(entry[size]), _model(*entry[size + 1 :]))
        for entry in entries
    }


def _hop(values: list[Any]) -> HopId:
    run, epoch, model, round_, hop = values
    return HopId(str(run), int(epoch), str(model), int(round_), int(hop))


def _model(number: Any, digest: Any) -> Model:
    return Model(int(number), str(digest))
