"""The images of one or several databases as one sequence, and SQL conditions on their columns.

`collection` is the sequence, `columns` what is known of each image; `condition` checks what a
person wrote and writes the SQL, `sql` holds the locked DuckDB, `query` runs it.
"""
