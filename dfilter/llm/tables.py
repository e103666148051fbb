"""The ledger's tables. A change of these is a new format (``FORMAT``), with a way there from the last one."""

from __future__ import annotations

from dfilter.llm.digest import COLUMNS

FORMAT = 2
LOST = "lost"  # the outcome of an attempt whose process died

_BUDGET = """
CREATE TABLE budget (
    id INTEGER PRIMARY KEY,
    name TEXT UNIQUE,               -- a run folder, or what --budget said; NULL: of one session alone
    calls INTEGER NOT NULL DEFAULT 0,           -- attempts that were begun
    tokens INTEGER NOT NULL DEFAULT 0,          -- as the servers counted them
    usd REAL NOT NULL DEFAULT 0,                -- known cost
    usd_uncertain REAL NOT NULL DEFAULT 0,      -- perhaps billed: the worst case of what brought no answer
    tokens_uncertain INTEGER NOT NULL DEFAULT 0,
    usd_reserved REAL NOT NULL DEFAULT 0,       -- the worst case of what is under way
    tokens_reserved INTEGER NOT NULL DEFAULT 0,
    unpriced INTEGER NOT NULL DEFAULT 0,        -- calls that cost nobody knows what
    digest BLOB                     -- over the above
)"""

_OWNER = """
CREATE TABLE owner (
    id INTEGER PRIMARY KEY,
    host TEXT NOT NULL,
    pid INTEGER NOT NULL,
    born TEXT NOT NULL,             -- when the process began, as its system says it
    lease REAL NOT NULL,            -- seconds since 1970 until which it counts as alive where nobody can look
    UNIQUE (host, pid, born)
)"""

_ASKED_AGAIN = """
CREATE TABLE asked_again (
    key BLOB PRIMARY KEY,           -- of an answer that somebody asked to be asked again
    asker INTEGER REFERENCES asker (id),
    since REAL NOT NULL,            -- seconds since 1970
    open INTEGER NOT NULL           -- 1 until a new answer is in
) WITHOUT ROWID"""

_TABLES = """
CREATE TABLE asker (
    id INTEGER PRIMARY KEY,
    hash TEXT NOT NULL UNIQUE,      -- names the spec
    spec TEXT NOT NULL              -- who asks what of whom: judge, template, model, server; JSON
);
CREATE TABLE attempt (
    id INTEGER PRIMARY KEY,
    key BLOB NOT NULL,
    started REAL NOT NULL,          -- seconds since 1970
    ended REAL,                     -- NULL: in flight; its worst case is reserved then
    http INTEGER,
    outcome TEXT,                   -- a status, or what went wrong: 429, timeout, reset, lost, ...
    usd REAL,                       -- what it cost; NULL when the price or the use is unknown
    asker INTEGER REFERENCES asker (id),
    budget INTEGER REFERENCES budget (id),
    owner INTEGER REFERENCES owner (id),        -- NULL: it outlives the process, as a batch does
    worst_usd REAL NOT NULL DEFAULT 0,
    worst_tokens INTEGER NOT NULL DEFAULT 0,
    tokens INTEGER                  -- what it took
);
CREATE INDEX attempt_open ON attempt (key) WHERE ended IS NULL;
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
    created REAL NOT NULL,
    digest BLOB                     -- over all of these but id: first without the body, then of the body
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
    usd REAL NOT NULL,              -- what is reserved for it
    created REAL NOT NULL,
    ended REAL                      -- NULL: not harvested yet
);
CREATE TABLE batch_row (
    plan TEXT NOT NULL REFERENCES batch (plan),
    key BLOB NOT NULL,
    attempt INTEGER NOT NULL REFERENCES attempt (id),
    PRIMARY KEY (plan, key)
) WITHOUT ROWID"""
TABLES = (_BUDGET, _OWNER, _ASKED_AGAIN, *_TABLES.split(";\n"))

_MORE = """
ALTER TABLE attempt ADD COLUMN asker INTEGER REFERENCES asker (id);
ALTER TABLE attempt ADD COLUMN budget INTEGER REFERENCES budget (id);
ALTER TABLE attempt ADD COLUMN owner INTEGER REFERENCES owner (id);
ALTER TABLE attempt ADD COLUMN worst_usd REAL NOT NULL DEFAULT 0;
ALTER TABLE attempt ADD COLUMN worst_tokens INTEGER NOT NULL DEFAULT 0;
ALTER TABLE attempt ADD COLUMN tokens INTEGER;
ALTER TABLE answer ADD COLUMN digest BLOB;
DROP INDEX attempt_open;
CREATE INDEX attempt_open ON attempt (key) WHERE ended IS NULL;
UPDATE attempt SET asker = (SELECT asker FROM answer WHERE answer.key = attempt.key);
UPDATE attempt SET ended = started, outcome = 'lost'
    WHERE ended IS NULL AND id NOT IN (SELECT attempt FROM batch_row)"""
_DIGESTS = f"UPDATE answer SET digest = answer_digest({', '.join(COLUMNS)})"  # noqa: S608 - our own names
# Format 1 had no budgets, no owners and no digests. What was in flight without a batch is nobody's now.
FROM_1 = (_BUDGET, _OWNER, _ASKED_AGAIN, *_MORE.split(";\n"), _DIGESTS)
