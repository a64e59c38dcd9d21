-- VACUUM cuts empty pages off a table's end, and locks the table exclusively until the log of that is on the disk. On a busy
-- disk that takes seconds: renewals of leases give up after three, and leases end after five. These few pages may stay.
SET LOCAL lock_timeout = '3s';

ALTER TABLE leases SET (vacuum_truncate = off);
