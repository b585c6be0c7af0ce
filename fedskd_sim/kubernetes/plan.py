"""What the chart tells the controller about the place of a run: images, names, time-outs, and how
pods of hospitals look.

The chart writes it as JSON (``plan.json``, beside the scenario, in one ConfigMap); its values
schema checks the contents, and the Kubernetes client's models check what is made of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from fedskd_sim.errors import InvalidValue
from fedskd_sim.kubernetes.overlay import Patch
from fedskd_sim.messages import CONTROLLER

PLAN = "plan.json"
"""The file of the run's ConfigMap in which it is."""
PORT = 5555
METRICS_PORT = 9100
FOLDER_PORT = 9101
"""Where a hospital serves its folder, on its pod's loopback address."""
NESTED = ("gpu", "requests", "limits")
SETTINGS: Mapping[str, Any] = MappingProxyType(
    {
        "requests": {}, "limits": {}, "sizeLimit": "20Gi", "gpu": {"resource": "nvidia.com/gpu"},
        "jobLabels": {}, "jobAnnotations": {}, "podLabels": {}, "podAnnotations": {}, "data": {},
        "custody": {},
    }
)  # fmt: skip
"""How hospitals' pods look where the chart's values do not say."""
ONE_VERSION = "use the chart and the image of one version"
NAME_LIMIT = 57
"""A pod's name is its job's and six more characters, and may have 63."""


@dataclass(frozen=True)
class Plan:
    """The place of one run in a cluster."""

    release: str
    namespace: str
    run: str
    """Hash of scenario and settings: another one is another run."""
    owner: str
    """The ConfigMap that owns every object of the run."""
    controller: str
    """The controller's job."""
    subdomain: str
    """The headless service: a hospital's host name is NAME.SUBDOMAIN."""
    secret: str
    service_account: str
    images: Mapping[str, Mapping[str, Any]]
    """``hospital`` (with PyTorch) and ``controller`` (without): image and pull policy."""
    pull_secrets: tuple[Mapping[str, str], ...]
    labels: Mapping[str, str]
    """By which the run's objects are known."""
    common_labels: dict[str, str]
    """Of all objects where nothing more specific says otherwise."""
    startup_seconds: float
    unschedulable_seconds: float
    hold_seconds: float
    linger_seconds: float
    ttl_seconds: int
    backoff_limit: int
    grace_seconds: int
    max_restarts: int
    """How often the run begins anew as a whole after a hospital was lost."""
    made: tuple[tuple[str, str], ...]
    """Kind and name of what goes with the controller's Job, where the release removes itself."""
    custody_anyway: str
    """Not empty: hospitals go on even where what they kept was kept under other circumstances."""
    custody_moves: str
    """``in``: hospitals wait until what they kept elsewhere has been brought; ``out``: until it has
    been taken; empty: neither."""
    annotations: Mapping[str, str]
    """Of every hospital's pod, against autoscalers."""
    user: int | str
    """User and groups of every pod; empty where the platform assigns them."""
    ipv6: bool
    queue: str
    """The queue of Kueue in which the ring waits as a whole; empty for none."""
    defaults: Mapping[str, Any]
    overrides: Mapping[str, Mapping[str, Any]]

    @classmethod
    def read(cls, file: Path) -> Self:
        """Read the chart's file.

        Raises:
            InvalidValue: it is not what this version's chart writes.

        """
        try:
            return cls.parse(str(file), file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InvalidValue(f"{file} is no plan: {error!r}", fix=ONE_VERSION) from error

    @classmethod
    def parse(cls, file: str, text: str) -> Self:
        """Read the text of the chart's file; raises InvalidValue as `read` does."""
        try:
            values = json.loads(text)
            values["pull_secrets"] = tuple(values["pull_secrets"] or ())
            values["made"] = tuple((str(kind), str(name)) for kind, name in values["made"])
            missing = [name for name, value in values.items() if value is None]
            if missing:
                fix = (
                    "give the chart's values that it has by default: helm upgrade "
                    "--reset-then-reuse-values"
                )
                raise InvalidValue(f"{file} has no {', '.join(missing)}", fix=fix)
            return cls(**{field.name: values.pop(field.name) for field in fields(cls)}, **values)
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidValue(f"{file} is no plan: {error!r}", fix=ONE_VERSION) from error

    def check_names(self, names: tuple[str, ...]) -> Self:
        """Refuse settings for hospitals that do not exist; raises InvalidValue."""
        for name in self.overrides:
            if name not in names:
                text = f"the chart has settings for {name!r}, which is no hospital of the scenario"
                raise InvalidValue(text, fix=f"hospitals.overrides may have {', '.join(names)}")
        return self

    def settings(self, name: str) -> dict[str, Any]:
        """Return a hospital's settings: the defaults, key by key replaced by its own; of GPU and
        requests only what is given.

        What the values of an older release lack, or somebody has set to null, is as in `SETTINGS`.
        """
        layers = [
            _without_nulls(one) for one in (SETTINGS, self.defaults, self.overrides.get(name, {}))
        ]
        nested = {
            key: {
                part: value
                for layer in layers
                for part, value in _without_nulls(layer.get(key, {})).items()
            }
            for key in NESTED
        }
        return {key: value for layer in (*layers, nested) for key, value in layer.items()}

    def patches(self, name: str, *, gpu: bool) -> list[Patch]:
        """List what is laid over a hospital's pod, in this order: the default's, that of GPU
        hospitals, the hospital's own.
        """
        found = []
        for place, layer in (
            (("defaults",), self.defaults),
            (("overrides", name), self.overrides.get(name, {})),
        ):
            for key in (("pod",), ("gpu", "pod"))[: 1 + gpu]:
                inner = layer if len(key) == 1 else layer.get(key[0]) or {}
                found.append(Patch(("hospitals", *place, *key), inner.get(key[-1]) or {}))
        return found

    def custody(self, name: str) -> str:
        """Name the claim on which a hospital keeps what survives its pod; empty for none."""
        return str(self.settings(name)["custody"].get("claim") or "").replace("{hospital}", name)

    def job(self, name: str) -> str:
        """Name a hospital's job; the release's part gives way where it would be too long."""
        tail = f"-{self.run}-{name}"
        return self.release[: NAME_LIMIT - len(tail)].rstrip("-.") + tail

    def address(self, name: str) -> str:
        """Return where a member's inbox is reached in the cluster."""
        return f"tcp://{name}.{self.subdomain}:{PORT}"

    @property
    def _any(self) -> str:
        return "[::]" if self.ipv6 else ""

    @property
    def bind(self) -> str:
        """Return where every member listens in its pod."""
        return f"tcp://{self._any or '*'}:{PORT}"

    @property
    def metrics(self) -> str:
        """Return where every hospital serves its metrics in its pod."""
        return f"{self._any or '0.0.0.0'}:{METRICS_PORT}"  # noqa: S104 - a pod is reached by its network policy only

    @property
    def hub(self) -> str:
        """Return where the controller is reached."""
        return self.address(CONTROLLER)


def _without_nulls(values: Mapping[str, Any] | None) -> dict[str, Any]:
    """Leave out what is null."""
    return {key: value for key, value in (values or {}).items() if value is not None}
