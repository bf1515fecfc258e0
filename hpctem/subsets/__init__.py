"""Subsets of databases: reproducible draws of rows, split into parts that share no structure.

`request` is what was asked, `pool` the rows to draw from, `draws`, `strata` and `splits` the
methods, `subset` their order; `file` writes and reads the result, `table` tells it.
"""
