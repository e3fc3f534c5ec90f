"""Generated gRPC stubs of `geniehive.v1`: built from protos/ by the install and by `make proto`, never edited."""
