"""Patches of a pod's spec: laid over it as ``kubectl patch --type strategic`` does; faults are told
by their place in the values.

One thing is not as there: tolerations are added to those that are there instead of replacing them.
The chart does the same to the controller's pod, with the same `KEYS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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


Locate = Callable[[tuple[Key, ...]], Where]


class Patch(NamedTuple):
    """A patch, and the key of the chart's values where it stands."""

    place: tuple[Key, ...]
    body: Mapping[str, Any]


def apply_patch(spec: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """Lay a patch over a spec: null removes a key, ``$patch: replace`` replaces a mapping,
    ``$patch: delete`` removes an entry.
    """
    result = {} if patch.get("$patch") == "replace" else dict(spec)
    for key, value in patch.items():
        there = result.get(key)
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping):
            result[key] = apply_patch(there if isinstance(there, Mapping) else {}, value)
        elif isinstance(value, list) and key in KEYS:
            result[key] = _entries(there or [], value, KEYS[key])
        elif key != "$patch":
            result[key] = value
    return result


def _entries(there: Sequence[Any], patches: Sequence[Any], key: str) -> list[Any]:
    result = list(there)
    for patch in patches:
        index = _same(result, patch, key)
        deleted = isinstance(patch, Mapping) and patch.get("$patch") == "delete"
        entry = (
            apply_patch({} if index is None else result[index], patch)
            if isinstance(patch, Mapping)
            else patch
        )
        place = slice(len(result), None) if index is None else slice(index, index + 1)
        result[place] = [] if deleted else [entry]
    return result


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


def anywhere(_key: tuple[Key, ...]) -> Where:
    """Say where a key of the values stands, for one who knows no files of them."""
    return Where("the chart's values")


def refusal(
    what: str, problems: Any, spec: Any, patches: Sequence[Patch], locate: Locate = anywhere
) -> InvalidValue:
    """Say what the API's models refuse in a spec, by the key of the values where it stands, as far
    as it stands in one.

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
