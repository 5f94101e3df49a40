-- How far each bundle has come. `rollout` is the whole of it as JSON (proto::control::RolloutView); the stage is what is asked for.

CREATE TABLE rollouts (
    revision INTEGER NOT NULL PRIMARY KEY REFERENCES bundles (revision),
    stage    TEXT    NOT NULL CHECK (stage IN ('canary', 'promoted', 'stopped', 'superseded')),
    rollout  TEXT    NOT NULL
) STRICT;
CREATE INDEX rollouts_by_stage ON rollouts (stage, revision);

-- What was published before there were rollouts was offered to all.
INSERT INTO rollouts (revision, stage, rollout)
SELECT revision, 'promoted', json_object(
    'revision', revision,
    'stage', 'promoted',
    'canaries', json_array(),
    'began_at_ms', published_at_ms,
    'ended_at_ms', published_at_ms,
    'reason', 'published before there were rollouts',
    'before', json_object('answers', 0, 'failed', 0, 'fell_back', 0, 'took_us', 0),
    'during', json_object('answers', 0, 'failed', 0, 'fell_back', 0, 'took_us', 0)
) FROM bundles;
