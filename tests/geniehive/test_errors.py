"""Every error has its row, and strangers count as ours."""

import grpc
import pytest

from geniehive import errors

TREE = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, errors.GenieHiveError)]


@pytest.mark.parametrize("cls", TREE, ids=lambda cls: cls.__name__)
def test_every_error_has_a_row_of_its_own_with_a_real_grpc_code(cls):
    row = errors.WIRE[cls]
    assert row.grpc in grpc.StatusCode.__members__
    assert 400 <= row.status < 600
    assert cls.__name__ in errors.__doc__


def test_a_stranger_is_an_internal_error():
    assert errors.wire_of(KeyError("x")).status == 500


def test_the_callers_fault_is_never_retryable_but_for_asking_too_much_at_once():
    repeated = {cls for cls, row in errors.WIRE.items() if row.retryable and issubclass(cls, errors.CallerError)}
    assert repeated == {errors.TooManyRequests}
