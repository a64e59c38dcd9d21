-- A tenure (name and token) is a key, so that two kinds of lock are apart: who acts under a lease locks its row FOR KEY
-- SHARE, which a renewal does not wait for, but nobody can give the row another token meanwhile. That holds for processes
-- of the version before, too: what they update of the token locks the row alone.
CREATE UNIQUE INDEX leases_tenure ON leases (name, token);
