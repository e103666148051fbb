"""The ledger's tables. A change of these is a new format (``ledger.FORMAT``)."""

from __future__ import annotations

# Made in every ledger that lacks it: a version that does not know it asks nothing again, and loses nothing.
ASKED_AGAIN = """
CREATE TABLE IF NOT EXISTS asked_again (
    key BLOB PRIMARY KEY,           -- of an answer that somebody asked to be asked again
    asker INTEGER,
    since REAL NOT NULL,            -- seconds since 1970
    open INTEGER NOT NULL           -- 1 until a new answer is in
) WITHOUT ROWID
"""
TABLES = """
CREATE TABLE asker (
    id INTEGER PRIMARY KEY,
    hash TEXT NOT NULL UNIQUE,      -- names the spec
    spec TEXT NOT NULL              -- who asks what of whom: judge, template, model, server; JSON
);
CREATE TABLE attempt (
    id INTEGER PRIMARY KEY,
    key BLOB NOT NULL,
    started REAL NOT NULL,          -- seconds since 1970
    ended REAL,                     -- NULL: in flight, or its process died
    http INTEGER,
    outcome TEXT,                   -- a status, or what went wrong: 429, timeout, reset, garbled, ...
    usd REAL                        -- what it cost; NULL when the price or the use is unknown
);
CREATE INDEX attempt_open ON attempt (id) WHERE ended IS NULL;
CREATE TABLE answer (
    id INTEGER PRIMARY KEY,
    key BLOB NOT NULL UNIQUE,
    asker INTEGER REFERENCES asker (id),
    status TEXT NOT NULL,
    value REAL,
    mass REAL,
    reason TEXT NOT NULL,
    reader TEXT NOT NULL,           -- which reader understood it, with its version
    raw TEXT,                       -- the body as it came
    model TEXT NOT NULL,            -- as the server reports it
    input_tokens INTEGER,
    output_tokens INTEGER,
    usd REAL,
    latency REAL,
    created REAL NOT NULL
);
CREATE INDEX answer_asker ON answer (asker);
CREATE TABLE capability (
    server TEXT NOT NULL,
    model TEXT NOT NULL,
    found TEXT NOT NULL,            -- JSON
    created REAL NOT NULL,
    PRIMARY KEY (server, model)
);
CREATE TABLE batch (
    plan TEXT PRIMARY KEY,          -- our name, which the batch carries as metadata
    id TEXT,                        -- the server's name; NULL: perhaps never created
    server TEXT NOT NULL,
    asker TEXT NOT NULL,
    turn INTEGER NOT NULL,          -- 1, and one more for each time its rows were sent again
    usd REAL NOT NULL,              -- its worst case
    created REAL NOT NULL,
    ended REAL                      -- NULL: not harvested yet
);
CREATE TABLE batch_row (
    plan TEXT NOT NULL REFERENCES batch (plan),
    key BLOB NOT NULL,
    attempt INTEGER NOT NULL REFERENCES attempt (id),
    PRIMARY KEY (plan, key)
) WITHOUT ROWID;
"""
