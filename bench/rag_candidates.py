"""Other ways to find the pieces that hold a query's words, beside the one of the store, on the same words (ADR 0012).

They are made from the store's own postings, by its owner. `python -m bench.rag_store … --alternatives` runs it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

import psycopg

MADE = (
    """CREATE TABLE by_document AS SELECT user_id, term, document, array_agg(piece << 8 | least(times, 255)) AS places
       FROM rag.postings GROUP BY user_id, term, document""",
    "ALTER TABLE by_document ADD PRIMARY KEY (user_id, term, document)",
    "CREATE TABLE lengths AS SELECT user_id, document, array_agg(terms ORDER BY piece) AS terms FROM rag.pieces GROUP BY 1, 2",
    """CREATE TABLE by_piece AS SELECT user_id, document, piece, array_agg(term) AS terms, array_agg(times) AS times,
       to_tsvector('simple', string_agg(repeat(term || ' ', times), '')) AS words
       FROM rag.postings GROUP BY user_id, document, piece""",
    "CREATE INDEX by_terms ON by_piece USING gin (terms)",
    "CREATE INDEX by_words ON by_piece USING gin (words)",
    "VACUUM ANALYZE",
)

BM25 = """
    WITH size AS (SELECT sum(pieces)::float8 AS n, sum(terms)::float8 / sum(pieces) AS mean FROM rag.documents
        WHERE user_id = %(user)s),
    hits AS MATERIALIZED ({hits}),
    weights AS (SELECT term, ln(1 + (n - count(*) + 0.5::float8) / (count(*) + 0.5::float8)) * 2.2::float8 AS idf
        FROM hits, size GROUP BY term, n)
    SELECT document, piece, sum(idf * times / (times + 0.3::float8 + 0.9::float8 * terms / mean)) AS score, count(*) OVER ()
    FROM hits JOIN weights USING (term), size GROUP BY 1, 2 ORDER BY score DESC LIMIT 50"""

RAREST = """
    WITH size AS MATERIALIZED (SELECT sum(pieces)::float8 AS n, sum(terms)::float8 / sum(pieces) AS mean FROM rag.documents
        WHERE user_id = %(user)s),
    counts AS MATERIALIZED (SELECT term, count(*)::float8 AS c FROM rag.postings
        WHERE user_id = %(user)s AND term = ANY(%(terms)s) GROUP BY term),
    weights AS MATERIALIZED (SELECT term, ln(1 + (n - c + 0.5::float8) / (c + 0.5::float8)) * 2.2::float8 AS idf, mean,
        sum(c) OVER (ORDER BY c, term) AS upto FROM counts, size),
    rare AS MATERIALIZED (SELECT * FROM weights WHERE upto <= 4000 OR upto = (SELECT min(upto) FROM weights))
    SELECT document, piece, sum(idf * times / (times + 0.3::float8 + 0.9::float8 * terms / mean)) AS score, count(*) OVER ()
    FROM rag.postings p JOIN rare USING (term) WHERE user_id = %(user)s AND p.term = ANY(ARRAY(SELECT term FROM rare))
    GROUP BY 1, 2 ORDER BY score DESC LIMIT 50"""
"""The store's way, in one statement so that it can be compared."""

QUERIES = {
    "postings, rarest terms first": RAREST,
    "postings, all terms, one statement": BM25.format(
        hits="SELECT term, document, piece, times, terms FROM rag.postings WHERE user_id = %(user)s AND term = ANY(%(terms)s)"
    ),
    "postings of a document in arrays": BM25.format(
        hits="""SELECT term, d.document, place >> 8 AS piece, place & 255 AS times, l.terms[(place >> 8) + 1] AS terms
            FROM by_document d JOIN lengths l USING (user_id, document), unnest(places) AS place
            WHERE d.user_id = %(user)s AND term = ANY(%(terms)s)"""
    ),
    "GIN on an array, candidates only": "SELECT count(*) FROM by_piece WHERE user_id = %(user)s AND terms && %(terms)s",
    "GIN on an array, with counts": """
        SELECT document, piece, sum(x.times) AS n FROM by_piece, unnest(terms, times) AS x (term, times)
        WHERE user_id = %(user)s AND terms && %(terms)s AND x.term = ANY(%(terms)s)
        GROUP BY 1, 2 ORDER BY n DESC LIMIT 50""",
    "GIN on a tsvector, ts_rank": """
        SELECT document, piece, ts_rank(words, query) AS rank FROM by_piece, to_tsquery('simple', %(either)s) AS query
        WHERE user_id = %(user)s AND words @@ query ORDER BY rank DESC LIMIT 50""",
}

WALLED = (
    "ALTER TABLE by_piece ENABLE ROW LEVEL SECURITY",
    "CREATE POLICY own ON by_piece USING (user_id = current_setting('rag.user', true))",
    "GRANT SELECT ON by_piece TO qingyu_rag_worker",
)


def measure(owner: str, user: str, queries: Sequence[Sequence[str]]) -> None:
    """Make the alternatives and time them.

    Args:
        queries: the terms of each.
    """
    with psycopg.connect(owner, autocommit=True) as connection:
        for statement in MADE:
            connection.execute(statement.encode())
        for table in ("by_document", "by_piece"):
            row = connection.execute("SELECT pg_total_relation_size(%s::regclass)", (table,)).fetchone()
            print(f"{table:52} {(row or [0])[0] / 2**20:8.0f} MiB")
        for name, query in QUERIES.items():
            _time(connection, name, query, user, queries)
        for statement in WALLED:
            connection.execute(statement.encode())
        connection.execute("SET ROLE qingyu_rag_worker")
        connection.execute("SELECT set_config('rag.user', %s, false)", (user,))
        name = "GIN on an array, candidates only"
        _time(connection, f"{name}, behind RLS", QUERIES[name], user, queries[:10])


def _time(
    connection: psycopg.Connection[Any], name: str, query: str, user: str, queries: Sequence[Sequence[str]]
) -> None:
    took = []
    for terms in queries:
        facts = {"user": user, "terms": list(terms), "either": " | ".join(terms)}
        began = time.perf_counter()
        connection.execute(query.encode(), facts).fetchall()
        took.append((time.perf_counter() - began) * 1000)
    print(f"{name:52} p50 {statistics.median(took):8.1f} ms", flush=True)
