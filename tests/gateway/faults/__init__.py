"""Everything that goes wrong at the two doors of the gateway: docs/faults.md lists it with the tests that prove it."""
