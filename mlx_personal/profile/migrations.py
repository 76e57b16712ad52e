"""The migrations of a profile's database: ordered steps, mostly in SQL, that are never changed after a release.

`PRAGMA user_version` stores how many have been applied.
"""

from typing import Final

from mlx_personal.profile.exchanges import fill_exchanges
from mlx_personal.storage.database import Migration

MIGRATIONS: Final[tuple[Migration, ...]] = (
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
    """
    -- A batch of imported dialogues, which can be taken back whole.
    CREATE TABLE imports (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        paths TEXT NOT NULL,    -- JSON list
        options TEXT NOT NULL,  -- JSON: the format and the filters
        started_at TEXT NOT NULL,
        finished_at TEXT,  -- NULL if it was interrupted
        summary TEXT,      -- JSON: what was read, new, known and skipped
        undone_at TEXT
    );

    -- Where imported dialogues come from. A dialogue has a row for each import that brought turns of it: a later export
    -- of the same conversation may continue it.
    CREATE TABLE origins (
        dialogue_id INTEGER NOT NULL REFERENCES dialogues (id),
        import_id INTEGER NOT NULL REFERENCES imports (id),
        app TEXT NOT NULL,
        conversation_id TEXT NOT NULL,  -- empty if the app has none
        title TEXT NOT NULL,
        model TEXT NOT NULL,
        time REAL,  -- when the conversation began, in seconds since 1970, UTC
        position INTEGER NOT NULL,  -- index of the first message that this import brought
        PRIMARY KEY (dialogue_id, import_id)
    ) WITHOUT ROWID;
    CREATE INDEX origins_by_import ON origins (import_id);
    CREATE INDEX origins_by_conversation ON origins (conversation_id, app) WHERE conversation_id != '';

    -- Verdicts that follow from an export, such as a thumb. They are proposals until the owner takes them.
    CREATE TABLE inferred_verdicts (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        dialogue_id INTEGER NOT NULL REFERENCES dialogues (id),
        import_id INTEGER NOT NULL REFERENCES imports (id),
        answer INTEGER NOT NULL,  -- index among the answers of the dialogue that have weight 1
        rating TEXT NOT NULL,     -- good or bad
        source TEXT NOT NULL,
        evidence TEXT NOT NULL
    );
    CREATE INDEX inferred_verdicts_by_answer ON inferred_verdicts (dialogue_id, answer, source);
    CREATE INDEX inferred_verdicts_by_import ON inferred_verdicts (import_id);

    -- Pairs of answers of which the owner preferred one.
    CREATE TABLE preference_pairs (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        dialogue_id INTEGER NOT NULL REFERENCES dialogues (id),
        import_id INTEGER NOT NULL REFERENCES imports (id),
        answer INTEGER NOT NULL,  -- as in inferred_verdicts
        chosen TEXT NOT NULL,
        rejected TEXT NOT NULL,
        source TEXT NOT NULL
    );
    CREATE INDEX preference_pairs_by_dialogue ON preference_pairs (dialogue_id);
    CREATE INDEX preference_pairs_by_import ON preference_pairs (import_id);

    -- Folders of apps whose new conversations are imported.
    CREATE TABLE watched_folders (
        path TEXT PRIMARY KEY,
        format TEXT NOT NULL,  -- empty to recognize each file
        added_at TEXT NOT NULL,
        polled_at TEXT,  -- NULL before the first time
        files TEXT NOT NULL DEFAULT '{}'  -- JSON: size and time of change of each file that was imported, by its path
    );

    -- Whose verdict it is: of the owner, of the owner who took a proposal, or inferred and accepted without asking.
    ALTER TABLE annotations ADD COLUMN origin TEXT NOT NULL DEFAULT 'owner'
        CHECK (origin IN ('owner', 'proposal', 'inferred'));

    -- For counts over a long stream, which would otherwise read all texts.
    CREATE INDEX dialogues_by_adapter ON dialogues (adapter_id);
    CREATE INDEX decisions_by_action ON decisions (action);
    CREATE INDEX decisions_with_slot ON decisions (dialogue_id, slot) WHERE slot IS NOT NULL;

    -- For taking back an import, which deletes dialogues that these columns may refer to.
    CREATE INDEX decisions_by_replaced ON decisions (replaced_id) WHERE replaced_id IS NOT NULL;
    CREATE INDEX annotations_by_dialogue ON annotations (dialogue_id);
    CREATE INDEX annotations_by_replaces ON annotations (replaces) WHERE replaces IS NOT NULL;
    CREATE INDEX training_rows_by_annotation ON training_rows (annotation_id);
    CREATE INDEX training_rows_by_synthetic ON training_rows (synthetic_id) WHERE synthetic_id IS NOT NULL;
    """,
    """
    -- Vectors of the first questions of the dialogues that can be examples in a prompt, which are computed once.
    CREATE TABLE question_vectors (
        dialogue_id INTEGER PRIMARY KEY REFERENCES dialogues (id) ON DELETE CASCADE,
        embedder TEXT NOT NULL,  -- the base and the embedder; with others the vector is computed again
        vector BLOB NOT NULL     -- float32, little-endian
    );
    """,
    """
    -- Of dialogues of an app that begin with the same question and answer, such as the branches of a conversation, this
    -- is the same; NULL for those of earlier versions.
    ALTER TABLE origins ADD COLUMN beginning BLOB;
    CREATE INDEX origins_by_beginning ON origins (beginning) WHERE beginning IS NOT NULL;
    """,
    """
    -- The answers of weight 1 of each imported dialogue, in order. The hash is of all questions and answers up to and
    -- including this one; where they are equal, it is the same exchange.
    CREATE TABLE exchanges (
        dialogue_id INTEGER NOT NULL REFERENCES dialogues (id),
        answer INTEGER NOT NULL,  -- as in inferred_verdicts
        prefix_hash BLOB NOT NULL,
        PRIMARY KEY (dialogue_id, answer)
    ) WITHOUT ROWID;

    -- The app's id of the conversation that has the verdict, because several may have the same answer.
    ALTER TABLE inferred_verdicts ADD COLUMN conversation_id TEXT NOT NULL DEFAULT '';
    UPDATE inferred_verdicts SET conversation_id = coalesce(
        (SELECT max(conversation_id) FROM origins AS o WHERE o.dialogue_id = inferred_verdicts.dialogue_id), '');
    """,
    fill_exchanges,
    """
    CREATE INDEX exchanges_by_prefix_hash ON exchanges (prefix_hash);

    -- Exchanges say what beginnings said. SQLite before 3.35 cannot drop a column.
    ALTER TABLE origins RENAME TO origins_with_beginning;
    CREATE TABLE origins (
        dialogue_id INTEGER NOT NULL REFERENCES dialogues (id),
        import_id INTEGER NOT NULL REFERENCES imports (id),
        app TEXT NOT NULL,
        conversation_id TEXT NOT NULL,
        title TEXT NOT NULL,
        model TEXT NOT NULL,
        time REAL,
        position INTEGER NOT NULL,
        PRIMARY KEY (dialogue_id, import_id)
    ) WITHOUT ROWID;
    INSERT INTO origins SELECT dialogue_id, import_id, app, conversation_id, title, model, time, position
        FROM origins_with_beginning;
    DROP TABLE origins_with_beginning;
    CREATE INDEX origins_by_import ON origins (import_id);
    CREATE INDEX origins_by_conversation ON origins (conversation_id, app) WHERE conversation_id != '';
    """,
    """
    -- The sample of the stream that a selection policy covers; empty for policies without one.
    CREATE TABLE stream_sample (
        position INTEGER PRIMARY KEY,
        dialogue_id INTEGER NOT NULL UNIQUE REFERENCES dialogues (id) ON DELETE CASCADE,
        vector BLOB NOT NULL,  -- as in bins
        eoe REAL NOT NULL
    );
    """,
)
