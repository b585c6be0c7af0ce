"""Links that cannot be, or that no run survives, in words: where they stand, what is wrong, what to
write.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from click.testing import CliRunner

from fedskd_sim.cli import main
from fedskd_sim.errors import FedskdError
from fedskd_sim.messages import HopId
from fedskd_sim.protocol import delivery
from fedskd_sim.protocol.effects import Send, Wait
from fedskd_sim.protocol.events import Model
from fedskd_sim.protocol.machine import TRIES
from fedskd_sim.protocol.state import State, Terms
from fedskd_sim.results.account import Account
from fedskd_sim.results.comparison.planning import describe, methods
from fedskd_sim.scenario import Timeouts, load
from fedskd_sim.scenario.faultchecks import ASKED, tries
from fedskd_sim.scenario.faults import rule_of

TEXT = """name: n
hospitals: [{{name: north, architecture: buffer}}, {{name: south, architecture: buffer}}]
algorithm: {{name: placebo, rounds: 2}}
timeouts: {{{timeouts}}}
links:
  - {rule}
"""
PATIENT = "retry: 1, acknowledgement: 60, goodbye: 60"
BAD = {
    "a hospital": ("{from: nort}", "from", "did you mean 'north'?"),
    "a hospital of two": ("{between: [north, eas]}", "between", "choose one of north, south"),
    "a controller": ("{to: contoller}", "to", "did you mean 'controller'?"),
    "the controller itself": (
        "{from: controller, to: controller}", "to", "no link leads from 'controller' to itself",
    ),
    "lost words": ("{to: controller, loss: 0.1}", "loss", "say 'on_loss: {name: skip}' or abort"),
    "words held back": ("{from: controller, reorder: 0.1}", "reorder", "are said only once"),
    "words cut off": (
        "{between: [north, controller], preset: vpn-daily-drop}", "preset", "are said only once",
    ),
    "changed words": ("{to: controller, corrupt: 0.1}", "corrupt", "words are never changed"),
    "words longer under way than patience": (
        "{between: [north, controller], delay: 31}", "delay", "raise timeouts.register",
    ),
    "one hospital": ("{between: [north]}", "between", "give a list of 2 or more"),
    "three hospitals": ("{between: [north, south, north]}", "between", "a list of 2 or fewer"),
    "itself": ("{from: north, to: north}", "to", "no link leads from 'north' to itself"),
    "itself twice": ("{between: [south, south]}", "between", "name two hospitals"),
    "two ways to say it": ("{from: north, between: [north, south]}", "between", "one of the two"),
    "a negative delay": ("{delay: -1}", "delay", "give 0 or more"),
    "a share above 1": ("{repeat: 1.5}", "repeat", "give 1 or less"),
    "loss without end": ("{loss: 1}", "loss", "give less than 1"),
    "no bandwidth": ("{bandwidth: 0}", "bandwidth", "nothing passes at 0 bytes/s"),
    "a bandwidth of bits": ("{bandwidth: 5 Mbit}", "bandwidth", "write a number and a unit"),
    "a fraction": ("{bandwidth: 5.5}", "bandwidth", "write a number and a unit"),
    "a jitter alone": ("{jitter: 0.1}", "jitter", "nothing arrives before it leaves"),
    "a preset's jitter": ("{preset: wan-100ms, delay: 0}", "delay", "nothing arrives before"),
    "a delay longer than patience": ("{delay: 31}", "delay", "timeouts.acknowledgement above 62"),
    "a preset": ("{preset: wan}", "preset", "choose one of lan, wan-100ms, vpn-daily-drop"),
    "a partition in no list": ("{partition: {begin: 1}}", "partition", "{begin: ..., lasts: ...}"),
    "a partition without end": (
        "{partition: [{begin: 1, lasts: 2, every: 2}]}", "partition", "'every' with more than 2",
    ),
    "a partition longer than patience": (
        "{partition: [{begin: 1, lasts: 31}]}", "partition", "raise timeouts.acknowledgement",
    ),
    "more loss than a run survives": ("{loss: 0.4}", "loss", "6.9 in 100 may never be confirmed"),
    "no list item": ("7", "", "a rule is a mapping such as"),
}  # fmt: skip


def problem(text: str, scenario_file: Callable) -> FedskdError:
    with pytest.raises(FedskdError) as caught:
        load(scenario_file(text))
    assert caught.value.fix
    return caught.value


@pytest.mark.parametrize(("rule", "key", "words"), BAD.values(), ids=BAD.keys())
def test_a_link_that_cannot_be_is_refused_in_its_line(
    rule: str, key: str, words: str, scenario_file: Callable
) -> None:
    """Each has its own words and names the key of the rule and the line of the file."""
    error = problem(TEXT.format(rule=rule, timeouts=PATIENT), scenario_file)
    assert error.where
    assert error.where.line == 6
    assert error.key[:2] == ("links", 0)
    assert error.key[2:3] in ((key,), ())
    assert words in str(error)


@pytest.mark.parametrize(
    ("rule", "timeouts", "words"),
    [
        ("{partition: [{begin: 0, lasts: 9}]}", "hop: 5, goodbye: 99", "raise timeouts.hop"),
        ("{reorder: 0.1}", "retry: 60, goodbye: 200", "a model is sent 2 times at most"),
    ],
)
def test_others_must_wait_long_enough_for_what_is_lost(
    rule: str, timeouts: str, words: str, scenario_file: Callable
) -> None:
    """Longer than a partition lasts, and for more than a few tries."""
    assert words in str(problem(TEXT.format(rule=rule, timeouts=timeouts), scenario_file))


def test_a_rule_that_counts_for_no_link_is_refused(scenario_file: Callable) -> None:
    """It stands before one that is for all of its links."""
    text = TEXT.format(rule="{from: north, delay: 1}\n  - {delay: 2}", timeouts="")
    assert "the last one counts" in str(error := problem(text, scenario_file))
    assert error.key == ("links", 0)
    text = TEXT.format(rule="{delay: 2}\n  - {from: north, delay: 1}", timeouts="")
    assert len(load(scenario_file(text)).scenario.links) == 2


WATCHED = """name: n
hospitals:
  [{{name: north, architecture: buffer}}, {{name: south, architecture: buffer}},
   {{name: east, architecture: buffer}}]
algorithm: {{name: placebo, rounds: 2}}
on_loss: {{name: {policy}, after: 10}}
links: [{rule}]
"""


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("{to: controller, loss: 0.3}", "3 words in a row are lost 2.7 times in 100"),
        ("{from: controller, partition: [{begin: 9, lasts: 15}]}", "raise timeouts.goodbye above"),
        ("{between: [east, controller], delay: 5}", "raise on_loss.after, or say less"),
    ],
)
def test_words_of_the_controller_are_not_lost_for_too_long(
    rule: str, words: str, scenario_file: Callable
) -> None:
    """Where signs of life are given they may get lost, but nobody is to be taken for gone by that
    alone.
    """
    error = problem(WATCHED.format(rule=rule, policy="skip"), scenario_file)
    assert words in str(error)
    assert error.where
    assert error.where.line == 7


@pytest.mark.parametrize("policy", ["skip", "abort"])
def test_words_of_the_controller_may_get_lost_where_signs_of_life_are_given(
    policy: str, scenario_file: Callable
) -> None:
    """Lost, held back and cut off; a rule that names the controller is for no other link, and one
    without it is not for the controller's.
    """
    rule = "{to: controller, loss: 0.2, reorder: 0.1, partition: [{begin: 1, lasts: 12}]}"
    found = load(scenario_file(WATCHED.format(rule=f"{rule}, {{delay: 1}}", policy=policy)))
    to, others = found.scenario.links
    pairs = (("north", "controller"), ("controller", "north"), ("north", "south"))
    assert [rule_of((to, others), *pair) for pair in pairs] == [to, None, others]
    assert to.words.startswith("to controller: loss 20 %")


def test_a_rule_for_words_that_a_later_one_is_for_is_refused(scenario_file: Callable) -> None:
    """As it is for any other link."""
    rules = "{from: east, to: controller, delay: 1}, {to: controller}"
    error = problem(WATCHED.format(rule=rules, policy="wait"), scenario_file)
    assert "the last one counts" in str(error)


def test_a_hospital_asks_as_often_as_the_checks_say() -> None:
    """Before it takes the controller for gone."""
    assert TRIES == ASKED


@pytest.mark.parametrize(("retry", "acknowledgement"), [(10, 120), (1, 60), (7, 7), (50, 20)])
def test_a_model_is_sent_as_often_as_the_checks_say(retry: float, acknowledgement: float) -> None:
    """The checks count the tries that the protocol makes."""
    waits = Timeouts(retry=retry, acknowledgement=acknowledgement)
    terms = Terms("r", 1, 1, acknowledgement, retry, 1, 1, 1)
    hop, seconds, sent = HopId("r", 1, "a", 1, 1), 0.0, list[float]()
    state, effects = delivery.send(State(), "b", hop, Model(1, ""), terms)
    while effects and isinstance(effects[0], Send):
        sent.append(seconds)
        (wait,) = (effect for effect in effects if isinstance(effect, Wait))
        seconds += wait.seconds
        state, effects = delivery.step(state, wait.timer, terms)  # type: ignore[arg-type]
    assert tries(waits) == pytest.approx(sent)


COMPARED = """name: n
data: {{name: synthetic-skin, samples: 60, image_size: 16, classes: 3}}
hospitals: [{{name: north, architecture: cnn-plain}}, {{name: south, architecture: cnn-plain}}]
algorithm: {{name: fedskd, rounds: 2}}
variants:
  far: {{links: [{rule}]}}
"""


def test_a_variant_has_links_of_its_own(scenario_file: Callable) -> None:
    """Others have the scenario's; what is wrong is said before, and the table has them in words."""
    error = problem(COMPARED.format(rule="{from: nort}"), scenario_file)
    assert error.key == ("variants", "far", "links", 0, "from")
    good = COMPARED.format(rule="{preset: lan, from: north}")
    far, same = methods(load(scenario_file(good)).scenario, ["far", "fedskd"])
    words = "from north: lan, delay 0.001 s, 125M bytes/s"
    assert describe(far).endswith(f"; links: {words}")
    assert same.scenario.links == ()


def test_links_are_told_in_words(scenario_file: Callable) -> None:
    """By validate and on the page of a run."""
    rule = (
        "{between: [north, south], delay: 0.1, bandwidth: 2M, loss: 0.02, corrupt: 0.005, "
        "partition: [{begin: 30, lasts: 5, every: 60}]}\n  - {from: south, to: north}"
    )
    path = scenario_file(TEXT.format(rule=rule, timeouts=PATIENT))
    words = (
        "between north and south: delay 0.1 s, 2M bytes/s, loss 2 %, corrupt 0.5 %, cut at 30 s "
        "for 5 s, again every 60 s; from south to north: undisturbed"
    )
    assert f"Links: {words}\n" in CliRunner().invoke(main, ["validate", str(path)]).stdout
    assert dict(Account(load(path).scenario, None).rows({}, "memory"))["links"] == words
