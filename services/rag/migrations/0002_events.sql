-- needs 1
-- What other services are still to be told of documents. A row comes with the change that it tells of, in its transaction, and goes
-- when the stream of events has it.
CREATE TABLE rag.untold (
    user_id text COLLATE "C" NOT NULL CHECK (user_id <> ''),
    number bigint GENERATED ALWAYS AS IDENTITY,
    event text NOT NULL,          -- its name
    data bytea NOT NULL,          -- its message, encoded
    at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, number)
);

ALTER TABLE rag.untold ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON rag.untold USING (user_id = current_setting('rag.user', true));

-- As the functions before it: it runs as the owner, looks across tenants, and tells nothing but names.
CREATE FUNCTION rag.tenants_to_tell(older_than timestamptz, at_most integer) RETURNS SETOF text
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$ SELECT DISTINCT user_id FROM rag.untold WHERE at < older_than LIMIT at_most $$;

REVOKE ALL ON FUNCTION rag.tenants_to_tell FROM PUBLIC;
GRANT SELECT, INSERT, UPDATE, DELETE ON rag.untold TO qingyu_rag_worker;
GRANT EXECUTE ON FUNCTION rag.tenants_to_tell TO qingyu_rag_worker;
