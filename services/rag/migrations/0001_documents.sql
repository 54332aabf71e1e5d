-- needs 1
-- The user's id leads every key and index, so that the tables can be distributed by it and a statement touches one tenant.
-- Texts that are compared have the collation "C": equal is what has the same bytes, whatever the database's locale.

CREATE EXTENSION IF NOT EXISTS vector;

-- What has been submitted of each document, the newest only. The row is the lock and the judge: whoever comes with an older
-- submission changes nothing. A deletion leaves its row behind (a tombstone), or an older one that runs late would undo it.
CREATE TABLE rag.submissions (
    user_id text COLLATE "C" NOT NULL CHECK (user_id <> ''),
    document_id text COLLATE "C" NOT NULL CHECK (document_id <> ''),
    queue bigint NOT NULL,        -- when the queue was made, unix nanoseconds
    sequence bigint NOT NULL,     -- of the job in the queue
    deleted boolean NOT NULL,
    found boolean NOT NULL,       -- whether there was such a document before: what a deletion that runs again answers
    at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, document_id)
);

-- Whose vectors are made by which model. Those of `model` are searched.
CREATE TABLE rag.tenants (
    user_id text COLLATE "C" NOT NULL CHECK (user_id <> ''),
    model text COLLATE "C" NOT NULL,
    dimension integer NOT NULL,
    pending boolean NOT NULL DEFAULT false, -- some pieces have no vector of `model`
    embedding_until timestamptz,            -- somebody makes vectors for it, and is given up for lost then
    PRIMARY KEY (user_id)
);

CREATE TABLE rag.documents (
    user_id text COLLATE "C" NOT NULL CHECK (user_id <> ''),
    document bigint GENERATED ALWAYS AS IDENTITY, -- each version has its own
    document_id text COLLATE "C" NOT NULL,
    project_id text COLLATE "C" NOT NULL,
    content_type text COLLATE "C" NOT NULL,
    metadata jsonb NOT NULL,
    pieces integer NOT NULL,
    terms bigint NOT NULL,        -- of all pieces, with repeats
    indexed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, document),
    UNIQUE (user_id, document_id)
);
CREATE INDEX documents_by_project ON rag.documents (user_id, project_id);

-- The names that documents bring into the dictionary of their project; they go with the document.
CREATE TABLE rag.names (
    user_id text COLLATE "C" NOT NULL,
    project_id text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    document bigint NOT NULL,
    PRIMARY KEY (user_id, project_id, name, document),
    FOREIGN KEY (user_id, document) REFERENCES rag.documents ON DELETE CASCADE
);
CREATE INDEX names_by_document ON rag.names (user_id, document);

CREATE TABLE rag.pieces (
    user_id text COLLATE "C" NOT NULL,
    document bigint NOT NULL,
    piece integer NOT NULL,       -- counts from 0
    "start" integer NOT NULL,     -- in the document's text, code points
    "end" integer NOT NULL,
    content text NOT NULL,
    terms integer NOT NULL,       -- with repeats
    hash bytea NOT NULL,          -- of the content
    PRIMARY KEY (user_id, document, piece),
    FOREIGN KEY (user_id, document) REFERENCES rag.documents ON DELETE CASCADE
);

-- Which pieces hold a term. The primary key has all that ranking needs, so that no row is fetched.
-- There is no foreign key: its check for each of a chapter's thousands of rows costs more than the rows.
CREATE TABLE rag.postings (
    user_id text COLLATE "C" NOT NULL,
    term text COLLATE "C" NOT NULL,
    document bigint NOT NULL,
    piece integer NOT NULL,
    times integer NOT NULL,       -- that the piece has the term
    terms integer NOT NULL,       -- of the piece
    PRIMARY KEY (user_id, term, document, piece) INCLUDE (times, terms)
);
CREATE INDEX postings_by_document ON rag.postings (user_id, document);

CREATE TABLE rag.vectors (
    user_id text COLLATE "C" NOT NULL,
    model text COLLATE "C" NOT NULL,
    document bigint NOT NULL,
    piece integer NOT NULL,
    hash bytea NOT NULL,          -- of the text that it was made of: the same text is not sent to a model again
    embedding vector NOT NULL,    -- of length 1
    PRIMARY KEY (user_id, model, document, piece),
    FOREIGN KEY (user_id, document, piece) REFERENCES rag.pieces ON DELETE CASCADE
);
CREATE INDEX vectors_by_hash ON rag.vectors (user_id, model, hash);
CREATE INDEX vectors_by_piece ON rag.vectors (user_id, document, piece);
ALTER TABLE rag.vectors ALTER COLUMN embedding SET STORAGE PLAIN; -- read whole at every search: never out of line

-- The second wall. The first is the WHERE of each statement; a statement that forgets it sees nothing.
ALTER TABLE rag.submissions ENABLE ROW LEVEL SECURITY;
ALTER TABLE rag.tenants ENABLE ROW LEVEL SECURITY;
ALTER TABLE rag.documents ENABLE ROW LEVEL SECURITY;
ALTER TABLE rag.names ENABLE ROW LEVEL SECURITY;
ALTER TABLE rag.pieces ENABLE ROW LEVEL SECURITY;
ALTER TABLE rag.postings ENABLE ROW LEVEL SECURITY;
ALTER TABLE rag.vectors ENABLE ROW LEVEL SECURITY;
ALTER TABLE rag.documents FORCE ROW LEVEL SECURITY;
ALTER TABLE rag.names FORCE ROW LEVEL SECURITY;
ALTER TABLE rag.pieces FORCE ROW LEVEL SECURITY;
ALTER TABLE rag.postings FORCE ROW LEVEL SECURITY;
ALTER TABLE rag.vectors FORCE ROW LEVEL SECURITY;

CREATE POLICY own ON rag.submissions USING (user_id = current_setting('rag.user', true));
CREATE POLICY own ON rag.tenants USING (user_id = current_setting('rag.user', true));
CREATE POLICY own ON rag.documents USING (user_id = current_setting('rag.user', true));
CREATE POLICY own ON rag.names USING (user_id = current_setting('rag.user', true));
CREATE POLICY own ON rag.pieces USING (user_id = current_setting('rag.user', true));
CREATE POLICY own ON rag.postings USING (user_id = current_setting('rag.user', true));
CREATE POLICY own ON rag.vectors USING (user_id = current_setting('rag.user', true));

-- Two things look across tenants, and tell nothing but names and a number. They run as the owner, whom the policies of
-- `tenants` and `submissions` do not bind.
CREATE FUNCTION rag.tenants_to_embed(wanted text, at_most integer) RETURNS SETOF text
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$ SELECT user_id FROM rag.tenants
          WHERE (model <> wanted OR pending) AND (embedding_until IS NULL OR embedding_until < now())
          ORDER BY user_id LIMIT at_most $$;

CREATE FUNCTION rag.forget_tombstones(older_than timestamptz) RETURNS bigint
    LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
    AS $$ WITH gone AS (DELETE FROM rag.submissions WHERE deleted AND at < older_than RETURNING 1) SELECT count(*) FROM gone $$;

REVOKE ALL ON FUNCTION rag.tenants_to_embed, rag.forget_tombstones FROM PUBLIC;

-- What a worker may do. The role that it logs in as is made a member of this one by `python -m services.rag.migrate`.
DO $$ BEGIN
    CREATE ROLE qingyu_rag_worker NOLOGIN;
EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; -- of another database on this server
END $$;
GRANT USAGE ON SCHEMA rag TO qingyu_rag_worker;
GRANT SELECT ON rag.migrations TO qingyu_rag_worker;
GRANT SELECT, INSERT, UPDATE, DELETE
    ON rag.submissions, rag.tenants, rag.documents, rag.names, rag.pieces, rag.postings, rag.vectors TO qingyu_rag_worker;
GRANT EXECUTE ON FUNCTION rag.tenants_to_embed, rag.forget_tombstones TO qingyu_rag_worker;
