-- What a fold changed is written to Redis in several calls, and each leaves a state of the board that has a version of
-- its own. They need room between the fold's version and that of the fold before (docs/adr/0010-versions-of-boards.md).
-- Programs of the version before take the next value as they did; what they publish keeps the room as well.
ALTER SEQUENCE entry_version INCREMENT BY 1024;
