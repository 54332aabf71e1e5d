"""The bus protocol over NATS. docs/bus-protocol.md tells the rules; each module here holds one part of them.

Pure: subjects, headers, deadline, errors, frame, fold, record, chunks. The wire: transport (what the protocol needs of a
broker), connection (NATS), memory (the in-memory twin), topology (streams and buckets). The two sides: call (asking),
worker (answering), with discovery between them.
"""
