"""Simulated clusters, and the policies in them."""

import pytest

from simulator import benchmark, fleet, plot, trace
from simulator.benchmark import Cell
from simulator.world import World


@pytest.fixture(autouse=True)
def few_requests(monkeypatch):
    monkeypatch.setattr(benchmark, "REQUESTS", dict.fromkeys(benchmark.FLEETS, 250))


def figures(policy, kind="chat", load="busy", size=4, seed=11):
    return benchmark.summed([benchmark.run(Cell(load, kind, size, policy, seed))])


@pytest.mark.parametrize("policy", [*benchmark.POLICIES, *benchmark.ORACLES])
@pytest.mark.parametrize("kind", benchmark.TRACES)
def test_every_policy_answers_every_request_and_the_same_seed_gives_the_same_figures(policy, kind):
    one = figures(policy, kind)
    assert one.requests > 100
    assert one == figures(policy, kind)


def test_a_trace_is_made_of_its_seed():
    assert trace.make("mixed", 3, 100, 1.0) == trace.make("mixed", 3, 100, 1.0)
    assert trace.make("mixed", 3, 100, 1.0) != trace.make("mixed", 4, 100, 1.0)


def test_each_turn_begins_with_the_turn_before_in_tokens_and_in_bytes():
    for talk in trace.make("agent", 5, 60, 1.0):
        for before, after in zip(talk.turns, talk.turns[1:], strict=False):
            assert after.prompt[: len(before.prompt)] == before.prompt
            assert before.prefix.keys[-1] in after.prefix.keys


def test_a_gateway_hears_of_others_late_and_of_itself_at_once():
    machines = fleet.make(4, 7)
    world = World(machines, trace.make("chat", 1, 60, 1.0), benchmark.POLICIES["scored"][1], gateways=2)
    world.run()
    assert all(set(gateway.reported) <= set(world.engines) for gateway in world._gateways)
    assert all(seen.running is None for name, seen in world._told.items() if name.startswith("mac"))


def test_predicted_beats_the_load_balancers_on_unequal_machines():
    ours = figures("predicted")
    assert ours.ttft_mean < 0.6 * figures("least_loaded").ttft_mean
    assert ours.ttft_mean < 0.3 * figures("round_robin").ttft_mean


def test_scored_is_no_worse_than_least_loaded():
    assert figures("scored").ttft_mean <= figures("least_loaded").ttft_mean


def test_a_plot_has_a_bar_for_every_policy():
    svg = plot.bars("Title & more", ("predicted", "oracle"), [("a < b", (1.0, 0.5)), ("c", (3.0, 2.0))])
    assert svg.count("<rect") == 1 + 4
    assert "a &lt; b" in svg
