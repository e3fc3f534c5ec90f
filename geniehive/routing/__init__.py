"""Which service answers a request. Pure: no I/O, no clock, no dice of its own.

`table` indexes a snapshot by every name that a client may use, `eligibility` says why a service may
or may not answer, `resolve` turns a name into candidates, `strategy` puts them in order, `apply`
brings a snapshot up to date. Gateways and the control plane use the same code, so that
`geniehive route resolve` shows what a gateway does.
"""
