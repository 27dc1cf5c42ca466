-- Events by their places in the journal, for whoever reads a batch or all from a position on. Events are stored in
-- about that order, so ranges of pages are enough: entries of each event, by developer, cost a sixth of applying it.
drop index usage_events_developer;
create index usage_events_place on usage_events using brin (position)
with (pages_per_range = 32, autosummarize = on);
