-- needs 1
-- Which models the settings of running workers name. While workers with old and with new settings run side by side, as in every
-- roll-out, only those of the newest make vectors anew; without this each kind would undo what the other does. Nobody's rows.

CREATE TABLE rag.targets (
    model text COLLATE "C" PRIMARY KEY,
    since timestamptz NOT NULL,   -- when it was first named, without a break
    until timestamptz NOT NULL    -- named, as far as is known; each worker puts it off again and again
);

CREATE FUNCTION rag.want(wanted text, seconds double precision) RETURNS void
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$ INSERT INTO rag.targets AS t VALUES (wanted, clock_timestamp(), clock_timestamp() + make_interval(secs => seconds))
          ON CONFLICT (model) DO UPDATE SET until = excluded.until,
              since = CASE WHEN t.until < excluded.since THEN excluded.since ELSE t.since END $$;

CREATE OR REPLACE FUNCTION rag.tenants_to_embed(wanted text, at_most integer) RETURNS SETOF text
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$ SELECT user_id FROM rag.tenants
          WHERE (model <> wanted OR pending) AND (embedding_until IS NULL OR embedding_until < now())
              AND NOT EXISTS (SELECT FROM rag.targets other WHERE other.model <> wanted AND other.until >= now()
                  AND other.since > COALESCE((SELECT since FROM rag.targets own WHERE own.model = wanted), '-infinity'))
          ORDER BY user_id LIMIT at_most $$;

REVOKE ALL ON FUNCTION rag.want FROM PUBLIC;
GRANT EXECUTE ON FUNCTION rag.want TO qingyu_rag_worker;
