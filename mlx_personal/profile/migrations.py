"""The migrations of a profile's database: ordered SQL steps that are never changed after a release.

`PRAGMA user_version` stores how many have been applied.
"""

from typing import Final

MIGRATIONS: Final[tuple[str, ...]] = (
    """
    CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);

    -- The stream: ids rise along it; key is the hash of the content, so that nothing is stored twice.
    CREATE TABLE dialogues (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        key TEXT NOT NULL UNIQUE,
        messages TEXT NOT NULL,
        source TEXT NOT NULL,
        adapter_id INTEGER REFERENCES adapters (id),  -- the adapter that gave the answers, if one did
        received_at TEXT NOT NULL
    );

    -- What selection decided about each dialogue, and why. A dialogue without a row waits to be scored.
    CREATE TABLE decisions (
        dialogue_id INTEGER PRIMARY KEY REFERENCES dialogues (id),
        action TEXT NOT NULL,
        domain TEXT NOT NULL,
        eoe REAL NOT NULL,
        dss REAL NOT NULL,
        idd REAL NOT NULL,
        slot INTEGER,
        replaced_id INTEGER REFERENCES dialogues (id),
        detail TEXT NOT NULL,
        decided_at TEXT NOT NULL
    );

    -- The buffer. Domain and DSS are not here: they follow from the text and the present lexicons.
    CREATE TABLE bins (
        slot INTEGER PRIMARY KEY,
        dialogue_id INTEGER NOT NULL UNIQUE REFERENCES dialogues (id),
        vector BLOB NOT NULL,  -- float32, little-endian, unit norm
        eoe REAL NOT NULL,
        idd REAL NOT NULL      -- as it was on arrival
    );

    CREATE TABLE annotations (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        dialogue_id INTEGER NOT NULL REFERENCES dialogues (id),
        verdict TEXT NOT NULL,
        messages TEXT,  -- the dialogue with the preferred answers; NULL for a skipped one
        near_duplicates INTEGER NOT NULL,  -- number of its near-duplicate group
        held_out INTEGER NOT NULL,
        undone INTEGER NOT NULL DEFAULT 0,
        replaces INTEGER REFERENCES annotations (id),  -- the verdict that stood before, for undoing
        asked_at TEXT NOT NULL
    );
    CREATE UNIQUE INDEX one_annotation ON annotations (dialogue_id) WHERE undone = 0;

    CREATE TABLE runs (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        kind TEXT NOT NULL,  -- synthesis, training, evaluation
        model TEXT NOT NULL,
        config TEXT NOT NULL,
        received INTEGER NOT NULL,  -- dialogues received when it began
        started_at TEXT NOT NULL,
        finished_at TEXT,
        result TEXT
    );

    CREATE TABLE synthetic (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        run_id INTEGER NOT NULL REFERENCES runs (id),
        annotation_id INTEGER NOT NULL REFERENCES annotations (id),
        messages TEXT,  -- NULL where the model's text could not be parsed
        raw TEXT NOT NULL,
        rouge1 REAL,
        kept INTEGER NOT NULL,
        reason TEXT NOT NULL
    );
    CREATE INDEX synthetic_by_annotation ON synthetic (annotation_id);

    CREATE TABLE adapters (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        run_id INTEGER NOT NULL REFERENCES runs (id),
        folder TEXT NOT NULL,  -- below the profile's folder
        model TEXT NOT NULL,   -- fingerprint of its base
        created_at TEXT NOT NULL,
        evaluation TEXT
    );
    -- For each base model, the last row names the adapter that answers; NULL, or no row, is the base itself.
    CREATE TABLE promotions (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        model TEXT NOT NULL,  -- fingerprint of the base
        adapter_id INTEGER REFERENCES adapters (id),
        promoted_at TEXT NOT NULL
    );

    -- Each training row, traceable to its dialogue through the annotation.
    CREATE TABLE training_rows (
        run_id INTEGER NOT NULL REFERENCES runs (id),
        position INTEGER NOT NULL,
        annotation_id INTEGER NOT NULL REFERENCES annotations (id),
        synthetic_id INTEGER REFERENCES synthetic (id),
        PRIMARY KEY (run_id, position)
    );
    """,
    """
    -- What was measured about a base model once, such as the probe of its chat template. Values are JSON.
    CREATE TABLE model_records (
        model TEXT NOT NULL,  -- fingerprint of the base
        kind TEXT NOT NULL,
        value TEXT NOT NULL,
        PRIMARY KEY (model, kind)
    );

    -- Questions that a model wrote in the owner's manner, for the owner to answer or to reject. They are not in the
    -- stream, and an answered one is a dialogue that selection never sees.
    CREATE TABLE proposed_questions (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        question TEXT NOT NULL UNIQUE,
        model TEXT NOT NULL,  -- fingerprint of the base
        proposed_at TEXT NOT NULL,
        dialogue_id INTEGER UNIQUE REFERENCES dialogues (id),  -- with the owner's answer, once there is one
        rejected_after INTEGER,  -- the last annotation before it was rejected, for undoing; NULL unless it is rejected
        rejection INTEGER  -- number of the rejection
    );
    """,
)
