// Prints what calls have cost, from the documented subjects and headers alone: nothing of this project but proto/events.proto.
//
//   npm install @nats-io/transport-node@3.4.0 @nats-io/jetstream@3.4.0 protobufjs@8.8.1
//   node examples/usage_events.cjs nats://127.0.0.1:4222 proto/events.proto [how many, then end]
"use strict";

const { connect } = require("@nats-io/transport-node");
const { jetstream, jetstreamManager, AckPolicy, DeliverPolicy } = require("@nats-io/jetstream");
const protobuf = require("protobufjs");

const STREAM = "AI_EVENTS";
const SUBJECT = "ai.events.v1.*.completed.*"; // ai.events.v1.<service>.<event>.<project token>
const FORGOTTEN_NS = 60e9;

// CloudEvents, NATS binding, binary mode: attributes are headers `ce-…`, percent-encoded.
function attribute(headers, name) {
  return decodeURIComponent(headers.get(`ce-${name}`));
}

async function main([servers = "nats://127.0.0.1:4222", proto = "proto/events.proto", count = "Infinity"]) {
  const types = await protobuf.load(proto);
  const connection = await connect({ servers: servers.split(",") });
  const manager = await jetstreamManager(connection);
  const made = await manager.consumers.add(STREAM, {
    ack_policy: AckPolicy.Explicit,
    deliver_policy: DeliverPolicy.All,
    filter_subject: SUBJECT,
    inactive_threshold: FORGOTTEN_NS, // a service that must not miss one names a durable consumer instead
  });
  const consumer = await jetstream(connection).consumers.get(STREAM, made.name);
  const seen = new Set(); // an event may come twice, with the same source and id
  for await (const message of await consumer.consume()) {
    try {
      const id = `${attribute(message.headers, "source")} ${attribute(message.headers, "id")}`;
      if (!seen.has(id)) {
        const type = types.lookupType(attribute(message.headers, "type")); // the full name of its message
        const event = type.toObject(type.decode(message.data), { longs: Number, defaults: true });
        console.log(JSON.stringify({ id: attribute(message.headers, "id"), user: event.call?.user, usage: event.usage }));
        seen.add(id);
      }
    } catch (error) {
      console.error(`usage_events: message ${message.seq} cannot be read: ${error.message}`); // it would be no better again
    }
    message.ack();
    if (seen.size >= Number(count)) {
      break;
    }
  }
  await connection.drain();
}

main(process.argv.slice(2)).catch((error) => {
  console.error(`usage_events: ${error.message}`);
  process.exit(1);
});
