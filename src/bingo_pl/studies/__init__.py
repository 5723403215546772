"""Studies of methods: the comparison (rows, table, figure) and scalability."""
