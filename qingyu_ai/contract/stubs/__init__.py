"""gRPC stubs and servicers of the contract. Generated, but for this line."""
