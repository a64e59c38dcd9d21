-- Marks in the history of this database. Redis keeps the last one that it was told of: a database that does not have it
-- has gone back in time (a restored backup, a replica that lagged), whatever it calls itself.
CREATE TABLE beacons (
    sequence bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    mark     uuid NOT NULL,
    -- Of the write-ahead log: another one after each promotion.
    timeline text NOT NULL
);

-- The last version of each board that a fold issued. A row of its own and not a column: every fold changes it last, and
-- holds it for as long as a commit takes.
CREATE TABLE board_versions (
    generation_id integer PRIMARY KEY REFERENCES leaderboard_generations ON DELETE CASCADE,
    version       bigint NOT NULL
) WITH (fillfactor = 50);

-- Counters go back with the database and reach the same number again, for something else. What is kept in a process or in
-- Redis by such a number is kept with the mark, which never comes twice. A trigger, so that processes of the version
-- before renew it too.
ALTER TABLE games ADD COLUMN definitions_mark uuid NOT NULL DEFAULT gen_random_uuid();
ALTER TABLE directory_version ADD COLUMN mark uuid NOT NULL DEFAULT gen_random_uuid();

CREATE FUNCTION renew_definitions_mark() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.definitions_mark := pg_catalog.gen_random_uuid();
    RETURN NEW;
END $$;
CREATE TRIGGER games_renew_definitions_mark BEFORE UPDATE OF definitions_generation ON games
    FOR EACH ROW EXECUTE FUNCTION renew_definitions_mark();

CREATE FUNCTION renew_directory_mark() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.mark := pg_catalog.gen_random_uuid();
    RETURN NEW;
END $$;
CREATE TRIGGER directory_version_renew_mark BEFORE UPDATE ON directory_version
    FOR EACH ROW EXECUTE FUNCTION renew_directory_mark();
