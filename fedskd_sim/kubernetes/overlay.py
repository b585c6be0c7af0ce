"""Patches of a pod's spec: laid over it as ``kubectl patch --type strategic`` does; faults are told
by their place in the values.

Three things are not as there. Tolerations are added to those that are there instead of replacing
them. ``$patch: replace`` also gives a mapping that was not there, where kubectl drops it. Of the
directives there are ``$patch: replace`` and ``$patch: delete``; any other key with a dollar, and an
entry without the key by which its list is merged, is refused. The chart does the same to the
controller's pod (templates/_overlay.tpl), with the same `KEYS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from fedskd_sim.errors import InvalidValue, Key, Where

KEYS: Mapping[str, str] = MappingProxyType(
    {
        "containers": "name", "env": "name", "hostAliases": "ip", "imagePullSecrets": "name",
        "initContainers": "name", "ports": "containerPort", "resourceClaims": "name",
        "schedulingGates": "name", "tolerations": "", "topologySpreadConstraints": "topologyKey",
        "volumeDevices": "devicePath", "volumeMounts": "mountPath", "volumes": "name",
    }
)  # fmt: skip
"""Lists whose entries are merged by a key of theirs, or only added (no key); any other list is
replaced as a whole.

Source: ``patchMergeKey`` of PodSpec and Container in the Kubernetes API.
"""
DIRECTIVE = "$patch"
REPLACE, DELETE = {DIRECTIVE: "replace"}, "delete"


Locate = Callable[[tuple[Key, ...]], Where]


class Patch(NamedTuple):
    """A patch, and the key of the chart's values where it stands."""

    place: tuple[Key, ...]
    body: Mapping[str, Any]


def apply_patch(spec: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """Lay a patch without `mistakes` over a spec: null removes a key, ``$patch: replace`` replaces
    a mapping or, as the only key of an entry, a list, ``$patch: delete`` empties a mapping or
    removes an entry.
    """
    if patch.get(DIRECTIVE) == DELETE:
        return {}
    result = {} if DIRECTIVE in patch else dict(spec)
    for key, value in patch.items():
        there = result.get(key)
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping):
            if key in result or value.get(DIRECTIVE) != DELETE:
                result[key] = apply_patch(there if isinstance(there, Mapping) else {}, value)
        elif isinstance(value, list) and key in KEYS:
            result[key] = _entries(there, value, KEYS[key])
        elif key != DIRECTIVE:
            result[key] = value
    return result


def _entries(there: Any, patches: Sequence[Mapping[str, Any]], key: str) -> list[Any]:
    """Merge the entries of a list by their key, and bring them into kubectl's order: those of the
    patch in the patch's, what is only there before the first that follows it there.
    """
    new = [one for one in patches if DIRECTIVE not in one]
    if REPLACE in patches or not isinstance(there, list):
        return [apply_patch({}, one) for one in new]
    if not key:
        return [*there, *(apply_patch({}, one) for one in new)]
    gone = [one[key] for one in patches if one.get(DIRECTIVE) == DELETE]
    kept = [one for one in there if one.get(key) not in gone]
    merged = list(kept)
    for one in new:
        index = _same(merged, one, key)
        if index is None:
            merged.append(apply_patch({}, one))
        else:
            merged[index] = apply_patch(merged[index], one)
    return _ordered(merged, [one.get(key) for one in kept], [one[key] for one in new], key)


def _ordered(merged: list[Any], before: list[Any], wanted: list[Any], key: str) -> list[Any]:
    """Order merged entries; ``before`` are the keys that were there, ``wanted`` those of the
    patch.
    """
    others = [name for name in dict.fromkeys(before) if name not in wanted]
    names: list[Any] = []
    for name in dict.fromkeys(wanted):
        limit = before.index(name) if name in before else 0
        while others and before.index(others[0]) < limit:
            names.append(others.pop(0))
        names.append(name)
    return [one for name in names + others for one in merged if one.get(key) == name]


def _same(entries: Sequence[Any], wanted: Any, key: str) -> int | None:
    """Find the entry that a patch's entry is about."""
    if not key or not isinstance(wanted, Mapping) or key not in wanted:
        return None
    return next(
        (
            place
            for place, one in enumerate(entries)
            if isinstance(one, Mapping) and one.get(key) == wanted[key]
        ),
        None,
    )


def mistakes(patch: Any, place: tuple[Key, ...] = ()) -> Iterator[tuple[tuple[Key, ...], str]]:
    """Yield what no patch may have, with its place in it and what is wrong."""
    if isinstance(patch, Mapping):
        for key, value in patch.items():
            if key == DIRECTIVE and value not in (*REPLACE.values(), DELETE):
                yield (*place, key), f"is {value!r}, and may be replace or delete"
            elif str(key).startswith("$") and key != DIRECTIVE:
                yield (*place, key), "is no directive: there is only $patch"
            else:
                yield from mistakes(value, (*place, key))
    elif isinstance(patch, list):
        name = KEYS.get(str(place[-1])) if place else None
        for number, entry in enumerate(patch):
            yield from _mistakes_of_entry(entry, name, (*place, number))


def _mistakes_of_entry(
    entry: Any, key: str | None, place: tuple[Key, ...]
) -> Iterator[tuple[tuple[Key, ...], str]]:
    """Check an entry of a list; ``key`` is as in `KEYS`, None where the list is replaced."""
    marked = isinstance(entry, Mapping) and DIRECTIVE in entry
    if key is None:
        if marked:
            yield place, "stands in a list that is replaced as a whole, without $patch"
        yield from mistakes(entry, place)
    elif not isinstance(entry, Mapping):
        yield place, "is no mapping"
    elif entry == REPLACE:
        return
    elif marked and entry[DIRECTIVE] == REPLACE[DIRECTIVE]:
        yield place, "replaces the whole list, and may have no other key than $patch"
    elif key and key not in entry:
        yield place, f"has no {key!r}, by which it is found"
    elif marked and not key:
        yield place, "cannot be deleted: such entries have no key; $patch: replace replaces them"
    else:
        yield from mistakes(entry, place)


def check(patch: Patch, locate: Locate) -> None:
    """Refuse a patch with `mistakes`; raises InvalidValue with all of them."""
    found = [
        InvalidValue(
            f"{'.'.join(map(str, patch.place + place))}: {text}",
            fix="patches are as for 'kubectl patch --type strategic': see the chart's README",
            where=locate(patch.place + place),
        )
        for place, text in mistakes(patch.body)
    ]
    if found:
        found[0].others = tuple(found[1:])
        raise found[0]


def anywhere(_key: tuple[Key, ...]) -> Where:
    """Return where a key of the values stands, for one who knows no files of them."""
    return Where("the chart's values")


def refusal(
    what: str, problems: Any, spec: Any, patches: Sequence[Patch], locate: Locate = anywhere
) -> InvalidValue:
    """Return what the API's models refuse in a spec, by the key of the values where it stands, as
    far as it stands in one.

    Args:
        what: whose pod it is.
        problems: what pydantic's ValidationError lists, with places in the spec.
        spec: the patched spec.
        patches: what was laid over it; the last one that has the place is to blame.
        locate: finds the file and line of a key.

    """
    found = []
    for problem in problems:
        place = tuple(problem["loc"])
        keys = (
            patch.place + inside
            for patch in reversed(patches)
            if (inside := _inside(patch.body, spec, place)) is not None
        )
        key = next(keys, ())
        text = f"{'.'.join(map(str, key or place))}: {what} is no valid pod: {problem['msg']}"
        found.append(
            InvalidValue(
                text,
                fix="see 'kubectl explain pod.spec' for what may stand there",
                where=locate(key),
            )
        )
    found[0].others = tuple(found[1:])
    return found[0]


def _inside(patch: Any, spec: Any, place: tuple[Key, ...]) -> tuple[Key, ...] | None:
    """Find a place of the spec in a patch: entries of lists may have other numbers there; None
    if the patch does not have it.
    """
    done: list[Key] = []
    name = ""
    for part in place:
        if isinstance(part, int):
            if not isinstance(patch, list) or not isinstance(spec, list):
                return None
            patch_index = _number(patch, spec[part], KEYS.get(name))
            if patch_index is None:
                return None
            done.append(patch_index)
            patch, spec = patch[patch_index], spec[part]
        elif isinstance(patch, Mapping) and part in patch:
            done.append(part)
            name, patch, spec = part, patch[part], spec[part] if isinstance(spec, Mapping) else None
        else:
            return tuple(done) if _is_missing(spec, part) and done else None
    return tuple(done)


def _number(patch: list[Any], entry: Any, key: str | None) -> int | None:
    return patch.index(entry) if entry in patch else _same(patch, entry, key or "")


def _is_missing(spec: Any, part: Key) -> bool:
    return isinstance(spec, Mapping) and part not in spec
