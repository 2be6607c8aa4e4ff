"""Record what made each result, and check that results, records and code fit together."""
