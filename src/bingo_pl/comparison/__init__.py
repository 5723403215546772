"""The comparison of methods on the same groups: rows, table, figure."""
