"""From raw rows to clean shards: filters, deduplication, contamination, consistency."""
