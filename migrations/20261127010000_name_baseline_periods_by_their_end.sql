-- A period is named by its start and its end. `infinity`: it never ends. NULL: an earlier version wrote the row; the schedule
-- of its generation says the end.
ALTER TABLE entry_baseline ADD COLUMN period_end timestamptz;
