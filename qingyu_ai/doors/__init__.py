"""Who may come in, and who may say what there: users and permissions of NATS, and certificates (docs/security-nats.md)."""
