"""Parts of a data set on their way onto claims of a cluster: for each hospital a claim, and for the
time of the way a pod that takes files onto it, to whoever shows a token that only this way has.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from kubernetes.client.exceptions import ApiException
from kubernetes.utils.quantity import parse_quantity

from fedskd_sim.errors import ClusterUnavailable, InvalidValue, OutputNotEmpty, Where
from fedskd_sim.kubernetes.folder_pods import loader
from fedskd_sim.kubernetes.folders import ANSWER_S, AT_ONCE, PATIENCE_S, TRIES, await_pod, retry
from fedskd_sim.kubernetes.jobs import RUN_KEY
from fedskd_sim.kubernetes.plan import FOLDER_PORT, Plan
from fedskd_sim.kubernetes.reach import Reach, Unreachable, translate_errors
from fedskd_sim.learning.readers.places import PART
from fedskd_sim.observe.words import amount
from fedskd_sim.runtimes import handover
from fedskd_sim.runtimes.handover import FolderClient
from fedskd_sim.runtimes.served import DATA_FOLDER, offer
from fedskd_sim.scenario import Scenario

CLAIM = "data-{hospital}"
"""What claims are called where the chart's values do not say."""
SPARE, LEAST = 1.25, 32 << 20
"""How much more a claim has than its part: what a file system takes for itself, and room for the
next part beside this one's."""
MIB = 1 << 20
SAME = ("form", "hospital", "data")
"""What a part on a claim has in common with one that may take its place."""


class Pushed(NamedTuple):
    """A part that is on its claim."""

    hospital: str
    claim: str
    size: int
    """Bytes."""
    how: str
    """``new``, ``replaced`` or ``there already``."""


def claim_of(plan: Plan, name: str) -> str:
    """Name the claim from which a hospital reads its data.

    Raises:
        InvalidValue: the chart's values let it read from something else.

    """
    data = plan.settings(name)["data"]
    if data and not data.get("claim"):
        text = f"by the chart's values {name!r} reads its data from a {next(iter(data))}, no claim"
        fix = (
            f"write data: {{claim: {CLAIM}}} there; for another volume make the parts with "
            "'fedskd-sim data split' and bring them yourself"
        )
        raise InvalidValue(text, fix=fix, where=Where("--values"))
    return str(data.get("claim") or CLAIM).replace("{hospital}", name)


@dataclass(frozen=True)
class ClaimLoader:
    """Brings parts onto the claims of a scenario's hospitals."""

    reach: Reach
    scenario: Scenario
    plan: Plan
    storage_class: str = ""
    """Of claims that are made; empty for the cluster's default."""
    replace: bool = False
    """Take the place of a part of other data, too."""

    def push(self, parts: Mapping[str, Path]) -> Iterator[Pushed]:
        """Bring each hospital its part, a few at a time.

        Args:
            parts: the folder of each hospital's part.

        Yields:
            What is in its place, in the order of ``parts``.

        Raises:
            InvalidValue: by the chart's values a hospital reads no claim.
            OutputNotEmpty: a claim has a part of other data, or too little room.
            ClusterUnavailable: something did not arrive; the others have.

        """
        claims = self.check()
        with translate_errors(), self._token() as (owner, token):

            def one(name: str) -> Pushed:
                return self._push(name, claims[name], parts[name], owner, token)

            with ThreadPoolExecutor(AT_ONCE) as pool:
                yield from pool.map(one, parts)

    def check(self) -> dict[str, str]:
        """Name the claim of each hospital; raises InvalidValue where the chart's values let it
        read something else.
        """
        return {name: claim_of(self.plan, name) for name in self.scenario.names}

    @contextmanager
    def _token(self) -> Iterator[tuple[tuple[str, str], bytes]]:
        """Keep a new token in a secret of the namespace, which owns the pods that take files."""
        name, token = f"{self.plan.release}-data-token", secrets.token_hex(32).encode()
        self.reach.remove_secret(name)  # one that an interrupted way has left, and its pods
        uid = self.reach.make_secret(name, {RUN_KEY: token}, self.plan.labels)
        try:
            yield (name, uid), token
        finally:
            with suppress(Unreachable, ApiException):
                self.reach.remove_secret(name)

    def _push(
        self, name: str, claim: str, part: Path, owner: tuple[str, str], token: bytes
    ) -> Pushed:
        size = sum(file.stat().st_size for file in part.iterdir())
        bound = self._claim(claim, size)
        body = loader(self.scenario, self.plan, name, claim, owner, bound=bound)
        pod, how = body["metadata"]["name"], ""
        client = FolderClient(
            partial(self.reach.connect, pod, FOLDER_PORT, PATIENCE_S),
            handover.token_of(token, self.plan.run, name),
        )

        def bring() -> None:
            nonlocal how
            how = self.reach.ask(lambda: self._bring(client, part, claim))

        with suppress(ApiException):
            self.reach.remove_pod(pod)
        self.reach.make_pod(body)
        try:
            await_pod(self.reach, pod, self.plan.startup_seconds)
            self.reach.ask(lambda: client.await_answer(ANSWER_S))
            trouble = retry(bring, TRIES)
        except Unreachable as error:
            trouble = str(error)
        finally:
            with suppress(Unreachable, ApiException):
                self.reach.remove_pod(pod)
        if trouble:
            text = f"the part of {name!r} could not be brought onto the claim {claim!r}: {trouble}"
            raise ClusterUnavailable(text, fix="try again: what is there already stays")
        return Pushed(name, claim, size, how)

    def _bring(self, client: FolderClient, part: Path, claim: str) -> str:
        """Bring a part, unless it is there; gives how it came there.

        Raises:
            OutputNotEmpty: what is there is of other data, or a run needs it.
            ConnectionError: it broke, or did not arrive as it was.

        """
        names = DATA_FOLDER.listed(part, "")
        new = json.loads((part / PART).read_text("utf-8"))
        try:
            old = json.loads(client.read(PART))
        except LookupError:
            client.bring(part, names)
            return "new"
        except ValueError:
            old = None
        if {*client.list(handover.RESULTS_PATH)} == {offer(part, name) for name in names}:
            return "there already"
        if (other := _differs(old, new)) and not self.replace:
            text = f"the part on claim {claim!r} was split with another {other}"
            fix = "give --replace if nobody needs it any more, or values with claims of other names"
            raise OutputNotEmpty(text, fix=fix)
        if user := self.reach.user_of(claim):
            text = f"a run that has not ended reads the claim {claim!r}: its Job is {user}"
            fix = "wait for its end, stop it, or give values with claims of other names"
            raise OutputNotEmpty(text, fix=fix)
        client.tell(handover.TAKEN_PATH)  # a claim has no room for two
        client.bring(part, names)
        return "replaced"

    def _claim(self, name: str, size: int) -> bool:
        """Make a claim that has room for a part, unless it is there; gives whether it has its
        volume.
        """
        found = self.reach.claim(name)
        if found is not None:
            wanted = found.spec.resources.requests  # what it will have, while it has no volume yet
            has = (found.status.capacity or wanted or {}).get("storage")
            quantity: Any = parse_quantity  # untyped
            if has and quantity(has) < size:
                text = f"the claim {name!r} has {has}, and the part {amount(size)}"
                raise OutputNotEmpty(text, fix=f"enlarge or remove it: kubectl get pvc {name}")
            return bool(found.spec.volume_name)
        room = max(LEAST, int(size * SPARE)) // MIB + 1
        spec: dict[str, Any] = {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": f"{room}Mi"}},
        }
        if self.storage_class:
            spec["storageClassName"] = self.storage_class
        labels = {"app.kubernetes.io/name": "fedskd-sim-data"}
        self.reach.make_claim({"metadata": {"name": name, "labels": labels}, "spec": spec})
        return False


def _differs(old: Any, new: Any) -> str:
    """Name what a part on a claim has other than one that is to take its place; empty for
    nothing.
    """
    try:
        found = [key for key in SAME if old[key] != new[key]]
        if found == ["data"]:
            keys = {**old["data"], **new["data"]}
            found = [f"data.{key}" for key in keys if old["data"].get(key) != new["data"].get(key)]
    except (KeyError, TypeError, AttributeError):
        found = ["form"]
    return ", ".join(found)
