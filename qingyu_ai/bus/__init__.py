"""The bus protocol over NATS. docs/bus-protocol.md tells the rules; each module here holds one part of them.

Pure: subjects, headers, deadline, errors, fold, record, chunks.
The wire: transport (what the protocol needs of a broker); connection over NATS, with client, ordered and pull; memory, the
in-memory twin, with memory_broker; topology (streams and buckets); records (the record bucket).
The two sides: call, reading, gauge and silence (asking), worker, rpcs, job and speaker (answering), discovery between them. What
happens is told to `observing`; `consumers` are for readers that stand outside of the protocol.
"""
