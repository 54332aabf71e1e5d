"""The wire contract as Python code. Generated from `proto/*.proto`: never edit, regenerate.

`python -m proto.generate` writes this package (and `clients/go/gen`, when the Go plugins are installed);
`python -m proto.generate --check` fails when it is not what the .proto files say.

- `qingyu_ai.contract.<file>_pb2`: protobuf messages with type stubs. The bridge, the workers and every chunk use these:
  they are fast (upb) and strict.
- `qingyu_ai.contract.stubs.<file>_pb2_grpc`: gRPC stubs with types. Apart, because only who calls over gRPC imports grpc.
- `qingyu_ai.contract.messages.qingyu.ai.<package>`: the same messages as pydantic dataclasses (betterproto2), for
  subscribers of events and for Python clients that want to write and validate typed values.

betterproto2 must never parse untrusted input: it accepts truncated bytes without a word. Parse such input with the
`_pb2` modules. docs/decisions/0001-betterproto2-for-betterproto.md tells more.
"""
