"""Simulated engines."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.cache import Piece, SlotCache, TreeCache
from simulator.engine import Engine, EngineSpec, Job, ModelSpec

PLAIN = {"overhead_s": 0.0, "crowding": 0.0, "drag": 0.0, "long_context": 1e12}


ONE = (ModelSpec("m"),)


def spec(slots=1, models=ONE, **fields):
    return EngineSpec("llama.cpp", slots, 100.0, 10.0, models, **{**PLAIN, **fields})


def job(number, *pieces, answer=11, asset="m"):
    chain = tuple(Piece(*each) for each in pieces)
    return Job(number, asset, chain, sum(each.tokens for each in chain), Piece(1000 + number, answer))


def ended(engine, until=1e4):
    engine.advance(until)
    return {(event.what, event.job.job_id): event.at for event in engine.happened}


def test_a_prompt_is_read_and_then_answered():
    engine = Engine(spec())
    engine.submit(job(1, (1, 200)))
    assert ended(engine) == {("first", 1): pytest.approx(2.0), ("done", 1): pytest.approx(3.0)}


def test_a_second_request_waits_for_the_slot():
    engine = Engine(spec())
    engine.submit(job(1, (1, 200)))
    engine.submit(job(2, (2, 100)))
    assert ended(engine)["first", 2] == pytest.approx(4.0)


def test_the_next_turn_finds_its_prompt_and_its_answer_in_the_slot():
    engine = Engine(spec())
    engine.submit(job(1, (1, 200)))
    engine.advance(10.0)
    engine.submit(job(2, (1, 200), (1001, 11), (3, 50)))
    engine.advance(20.0)
    assert engine.happened[-1].cached == 211


def test_answers_stand_still_while_a_prompt_is_read():
    engine = Engine(spec(slots=2, starved=1e-6))
    engine.submit(job(1, (1, 100)))
    engine.advance(1.5)
    engine.submit(job(2, (2, 300)))
    assert ended(engine)["done", 1] == pytest.approx(5.0)


def test_another_model_is_loaded_when_the_first_is_idle():
    both = (ModelSpec("m"), ModelSpec("n", load_s=7.0))
    engine = Engine(spec(models=both))
    engine.submit(job(1, (1, 100)))
    engine.submit(job(2, (2, 100), asset="n"))
    assert ended(engine)["first", 2] == pytest.approx(1.0 + 1.0 + 7.0 + 1.0)
    assert engine.loaded() == {"n"}


def test_a_tree_forgets_its_oldest_leaves():
    tree = TreeCache(250)
    tree.filled((Piece(1, 100), Piece(2, 100)))
    tree.filled((Piece(1, 100), Piece(3, 100)))
    assert tree.take((Piece(1, 100), Piece(2, 100))).cached == 100
    assert tree.take((Piece(1, 100), Piece(3, 100))).cached == 200


def test_a_slot_tells_what_it_loses():
    slots = SlotCache(1)
    slots.give(slots.take((Piece(1, 100),)).place, (Piece(1, 100), Piece(9, 5)))
    assert slots.take((Piece(2, 100),)).lost == (Piece(1, 100), Piece(9, 5))


jobs = st.lists(st.tuples(st.floats(0, 3), st.integers(1, 5), st.integers(1, 400), st.integers(1, 60)), max_size=25)


@settings(max_examples=60, deadline=None)
@given(jobs, st.integers(1, 4), st.sampled_from([0, 600, 5000]))
def test_every_request_ends_once_and_in_order(sent, slots, kv_tokens):
    engine = Engine(spec(slots=slots, kv_tokens=kv_tokens, crowding=0.1))
    at = 0.0
    for number, (pause, piece, tokens, answer) in enumerate(sent):
        at += pause
        engine.advance(at)
        engine.submit(job(number, (piece, tokens), answer=answer))
    engine.advance(1e6)
    firsts = [event.job.job_id for event in engine.happened if event.what == "first"]
    assert firsts == sorted(firsts) == list(range(len(sent)))
    assert sorted(event.job.job_id for event in engine.happened if event.what == "done") == firsts
    assert [event.at for event in engine.happened] == sorted(event.at for event in engine.happened)
    assert engine.running == 0


@settings(max_examples=60, deadline=None)
@given(jobs, st.integers(1, 4))
def test_what_is_foreseen_comes_true_if_nothing_follows(sent, slots):
    engine = Engine(spec(slots=slots, crowding=0.1))
    for number, (pause, piece, tokens, answer) in enumerate(sent):
        engine.advance(engine.now + pause)
        engine.submit(job(number, (piece, tokens), answer=answer))
    last = job(999, (7, 300), answer=20)
    foreseen, now = engine.foresee(last), engine.now
    engine.submit(last)
    at = ended(engine, 1e6)
    assert at["first", 999] - now == pytest.approx(foreseen.first)
    assert at["done", 999] - now == pytest.approx(foreseen.last)
