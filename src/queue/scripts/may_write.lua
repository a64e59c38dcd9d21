#!lua flags=allow-oom
-- Writes nothing, and is refused where a script that writes would be: on a replica, while Redis cannot persist
-- (MISCONF), with too few replicas (NOREPLICAS), and to a user that may run no scripts.
-- KEYS  1 any key of the slot that is meant
-- Cost  O(1).
return 1
